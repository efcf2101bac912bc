# A credential that no API makes: a person does, and hands it in. The probe proves the
# rest. Look at docs/issuers/human.md.

data_dir = "data"

listener "tcp" {
  address = "127.0.0.1:8400"
}

backend "local" "embedded" {}

issuer "human" "carrier" {
  instructions        = "Log in to https://portal.carrier.example, Settings, API keys: make one for keybroker"
  revoke_instructions = "at https://portal.carrier.example, Settings, API keys, and delete it"
  fields              = ["key"]
  handle              = ["id"]
  deadline            = "72h"
  revocation_budget   = "24h"
}

probe "http" "carrier" {
  url     = "https://api.carrier.example/v1/me"
  headers = { Authorization = "Bearer ${field.key}" }
  accepted { status = [200] }
  rejected { status = [401] }
}

secret "sms/carrier" {
  backend = "embedded"
  probe   = "carrier"
  issuer "carrier" {}
  rotation {
    schedule = "0 9 1 */3 *" # when people are at work
    overlap  = "48h"
  }
}

# Who is told that a value is wanted, and that one is to be turned off.
notifier "log" "here" {}

alert "people" {
  notifier = "here"
  on       = ["value_wanted", "revoke_by_hand", "unconfirmed", "rotation_failed"]
  repeat   = "8h"
}
