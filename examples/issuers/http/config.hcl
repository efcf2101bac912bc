# API keys of a mail service, made, found and turned off by its HTTP API, rotated every
# month. Look at docs/issuers/http.md and docs/issuers/probe-http.md.

data_dir = "data"

listener "tcp" {
  address = "127.0.0.1:8400"
}

backend "local" "embedded" {}

issuer "http" "mailer" {
  base_url = "https://api.mailer.example"
  auth "oauth2" {
    token_url     = "https://login.mailer.example/oauth/token"
    client_id     = "keybroker"
    client_secret = env("MAILER_CLIENT_SECRET")
    scopes        = ["keys"]
    audience      = "keyserver"
  }
  create {
    path   = "/v1/keys"
    body   = jsonencode({ name = rotation.tag, scopes = secret.issuer.scopes })
    handle = { id = "$.id" }
    fields = { key = "$.secret" }
  }
  find { # recovers a create whose answer was lost
    path   = "/v1/keys"
    items  = "$.data"
    tag    = "$.name" # must equal rotation.tag exactly
    handle = { id = "$.id" }
    pages "link" {}
  }
  revoke {
    path = "/v1/keys/${handle.id}"
  }
  check {
    path = "/v1/keys?name=none"
  }
  max_live          = 5
  show_once         = true
  revocation_budget = "30m"
}

probe "http" "mailer" {
  url     = "https://api.mailer.example/v1/me"
  headers = { Authorization = "Bearer ${field.key}" }
  accepted {
    status = [200]
    json {
      path   = "$.ok"
      equals = true
    }
  }
  rejected { status = [401] }
}

secret "mail/sender" {
  backend = "embedded"
  probe   = "mailer"
  issuer "mailer" {
    scopes = ["send"]
  }
  rotation {
    schedule = "0 3 1 * *"
    overlap  = "24h"
    confirm {
      rejections = 3
      window     = "30m"
    }
  }
}
