# A secret that is kept in two vaults: Vault says which version is current, AWS
# Secrets Manager holds the same for the applications over there. See README.md.

backend "vault" "prod" { # the primary
  address      = "https://vault.example.com:8200"
  mount        = "secret"
  path_prefix  = "keybroker/"
  environments = ["production"]
  auth "approle" {
    role_id        = env("VAULT_ROLE_ID")
    secret_id_file = "/run/secrets/vault-secret-id"
  }
  limits {
    requests_per_second = 200
    timeout             = "10s"
  }
}

backend "aws_secrets_manager" "us" { # the mirror
  region       = "us-east-1"
  kms_key_id   = "alias/secrets"
  layout       = "json"
  drift_check  = "5m" # how often it is looked whether somebody else wrote there; default 15m
  environments = ["production"]
}

issuer "http" "mailer" {
  base_url = "https://api.mailer.example"
  auth "bearer" {
    token = env("MAILER_ADMIN_TOKEN")
  }
  create {
    method = "POST"
    path   = "/v1/keys"
    body   = jsonencode({ name = rotation.tag, scopes = secret.issuer.scopes })
    handle = { id = "$.id" }
    fields = { key = "$.secret" }
  }
  find {
    method = "GET"
    path   = "/v1/keys?name=${rotation.tag}"
    items  = "$.data"
    tag    = "$.name"
    handle = { id = "$.id" }
  }
  revoke {
    method = "DELETE"
    path   = "/v1/keys/${handle.id}"
  }
  max_live          = 5
  show_once         = true
  revocation_budget = "30m"
}

probe "http" "mailer" {
  method  = "GET"
  url     = "https://api.mailer.example/v1/me"
  headers = { Authorization = "Bearer ${field.key}" }
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}

rotation_policy "mail" {
  match {
    paths = ["mail/*"]
  }
  schedule         = "0 3 1 * *"
  overlap          = "24h"
  wait_for_mirrors = true # the default: the old key outlives its overlap while a mirror is behind …
  limits {
    max_overlap = "48h" # … but not for longer than this
  }
}

secret "mail/sender" {
  backend  = "prod"
  mirrors  = ["us"]
  on_drift = "restore" # or "report", the default, or "adopt"
  probe    = "mailer"
  labels   = { environment = "production" }
  issuer "mailer" {
    scopes = ["send"]
  }
}
