backend "local" "prod" {}
issuer "api_key" "internal" {}
secret "a" {
  backend   = "prd"          # ERROR: There is no backend "prd". Did you mean "prod"?
  probe     = "web"          # ERROR: The configuration has no probe at all.
  consumers = [
    "app",                   # ERROR: There is no consumer "app"
    "crm",                   # ERROR: The consumer "crm" belongs to the tenant "acme"
  ]
  issuer "interal" {}        # ERROR: Did you mean "internal"?
}
consumer "crm" {
  tenant = "acme"
  webhook {
    url = "https://example.com"
  }
}
secret "b" {
  backend   = "prod"
  mirrors   = [
    "prot",                  # ERROR: There is no backend "prot". Did you mean "prod"?
    "",                      # ERROR: There is no backend ""
  ]
  consumers = ["crm"]        # ERROR: The consumer "crm" belongs to the tenant "acme", this secret to "default"
}
