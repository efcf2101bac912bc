backend "local" "here" {}
issuer "api_key" "keys" {}
issuer "http" "free" {
  revocation_budget = "1m"
}
probe "http" "p" {
  url    = "https://x"
  canary = { key = secret("infra/canary").key }
  auth "basic" {
    username = secret("infra/admin").user
    password = secret("infra/admin").password
  }
  accepted {
    status = [200]
  }
}
probe "http" "plain" {
  url = "https://x"
  accepted {
    status = [200]
  }
}
backend "vault" "prod" {
  address = "https://x"
  token   = secret("infra/vault")["key"]
  headers = { Authorization = "Bearer ${secret("infra/vault").key} ${env("TOKEN")}" }
  keys    = [secret("infra/vault").key]
}
backend "vault" "acme" {
  tenant  = "acme"
  address = "https://acme"
  token   = secret("infra/vault").key
  auth "approle" {
    role_id = secret("acme:infra/vault").key
  }
}
secret "infra/vault" {
  backend = "here"
  probe   = "plain"
  issuer "keys" {}
}
secret "infra/canary" {
  backend = "here"
  probe   = "plain"
  issuer "keys" {}
}
secret "infra/admin" {
  backend = "here"
  probe   = "plain"
  issuer "free" { scopes = [] }
}
secret "infra/vault" {
  tenant  = "acme"
  backend = "here"
  probe   = "plain"
  issuer "keys" {}
  rotation {
    overlap = "1h"
  }
}
secret "in/prod" {
  backend = "prod"
  probe   = "p"
  issuer "free" { scopes = [] }
}
