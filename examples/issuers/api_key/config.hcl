# API keys that keybroker itself issues and checks, rotated every month and tried at the
# broker's own check. Look at docs/issuers/api_key.md and docs/issuers/probe-api_key.md.

data_dir = "data"

listener "tcp" {
  address = "127.0.0.1:8400"
}

backend "local" "embedded" {}

issuer "api_key" "internal" {}

probe "api_key" "internal" {}

secret "shop/api-key" {
  backend = "embedded"
  probe   = "internal"
  issuer "internal" {}
  rotation {
    schedule = "0 3 1 * *"
    overlap  = "24h"
    key {
      prefix = "shop"
      length = 40
    }
    confirm {
      rejections = 3
      window     = "1m"
    }
  }
}
