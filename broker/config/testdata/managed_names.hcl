backend "local" "here" {}
issuer "api_key" "keys" {}
secret "infra/vault" {
  backend = "here"
  issuer "keys" {}
  proof = "none"
}
secret "mail/admin" {
  tenant  = "acme"
  backend = "here"
  issuer "keys" {}
  proof = "none"
}
issuer "lease" "leases" {}
secret "infra/lease" {
  backend = "here"
  issuer "leases" { field = "pin" }
  proof = "none"
}
backend "vault" "a" {
  address = "https://a"
  keys    = [
    secret("infra/valt").key,               # ERROR: There is no secret "infra/valt". Did you mean "infra/vault"?
    secret("infra/vault").kee,              # ERROR: The secret "infra/vault" has no field "kee". Did you mean "key"?
    secret("acme:mail/admin").key,          # ERROR: The secret "acme:mail/admin" belongs to the tenant "acme", this backend to no tenant. Tenants are kept apart
    secret("mail/admin").key,               # ERROR: There is no secret "mail/admin"
    secret("infra/lease").pin,
    secret("infra/lease").value,            # ERROR: The secret "infra/lease" has no field "value"
  ]
}
issuer "http" "a" {
  revocation_budget = "1m"
}
probe "http" "acme" {
  tenant = "acme"
  url    = "https://x"
  canary = {
    key   = secret("infra/vault").key       # ERROR: The secret "infra/vault" belongs to the tenant "default", this probe to "acme"
    other = secret("mail/admin").key
  }
  accepted {
    status = [200]
  }
}
