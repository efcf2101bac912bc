policy "reader" {
  path "a/*" {
    capabilities = ["read"]
  }
}
role "staging" {
  environment = "staging"
  policies    = ["reader"]
}
backend "local" "open" {     # ERROR: The backend "open" declares no environments, but holds secrets that belong to one, and roles are bound to environments
}
backend "local" "production" {
  environments = ["production"]
}
backend "vault" "mirror" {   # ERROR: The backend "mirror" declares no environments
  address = "https://vault.example.com"
}
backend "vault" "misspelt" {
  address     = "https://vault.example.org"
  environment = ["staging"]  # ERROR: Did you mean "environments"?
}
secret "a" {
  backend = "open"
  labels  = { environment = "staging" }
}
secret "b" {
  backend = "open"
  labels  = { environment = "production" }
}
secret "c" {
  backend = "production"
  mirrors = ["mirror"]
  labels  = { environment = "production" }
}
secret "d" {
  backend = "misspelt"
  labels  = { environment = "staging" }
}
secret "e" {
  backend = "open"
}
secret "f" {
  backend = "production"     # ERROR: The backend "production" does not hold secrets of the environment "staging"
  labels  = { environment = "staging" }
}
consumer "staging" {
  tenant = "acme"
  role   = "staging-app"
  webhook {
    url = "https://example.com"
  }
}
role "staging-app" {
  tenant      = "acme"
  environment = "staging"
  policies    = ["reader"]
}
backend "local" "both" {
  environments = ["production", "staging", ""]
}
secret "g" {
  tenant    = "acme"
  backend   = "both"
  consumers = ["staging"]
  labels    = { environment = "staging" }
}
secret "h" {
  tenant    = "acme"
  backend   = "both"
  consumers = ["staging"]    # ERROR: The consumer "staging" reads as the role "staging-app" of the environment "staging", but this secret is of "production"
  labels    = { environment = "production" }
}
secret "i" {
  tenant    = "acme"
  backend   = "both"
  consumers = ["staging"]    # ERROR: but this secret is of none
}
