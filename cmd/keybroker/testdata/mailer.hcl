# What the live scripts serve that say `vault`: a Vault, and a third party's API that
# mints keys. DIR, VAULT_ADDR and API_URL are filled in.
backend "vault" "prod" {
  address     = "VAULT_ADDR"
  mount       = "secret"
  path_prefix = "keybroker/"
  auth "approle" {
    role_id        = file("DIR/role-id")
    secret_id_file = "DIR/secret-id"
  }
}
issuer "http" "mailer" {
  base_url              = "API_URL"
  allow_private_network = true
  auth "bearer" {
    token = file("DIR/mailer-admin")
  }
  create {
    method = "POST"
    path   = "/v1/keys"
    body   = jsonencode({ name = rotation.tag })
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
  show_once         = true
  revocation_budget = "1s"
}
probe "http" "mailer" {
  method                = "GET"
  url                   = "API_URL/v1/me"
  headers               = { Authorization = "Bearer ${field.key}" }
  allow_private_network = true
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}
