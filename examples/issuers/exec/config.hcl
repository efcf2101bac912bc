# Keys that a program mints, turns off and tries: keystore.py beside this file, which
# keeps them in a directory. Any other language does as well (docs/issuers/exec.md).

data_dir = "data"

listener "tcp" {
  address = "127.0.0.1:8400"
}

backend "local" "embedded" {}

issuer "exec" "keystore" {
  command    = "/usr/bin/python3"
  args       = ["-I", "/usr/local/lib/keybroker/keystore.py", "/var/lib/keystore"]
  secret_env = { KEYSTORE_TOKEN = env("KEYSTORE_TOKEN") }
  timeout    = "20s"

  fields            = ["key"]
  handle            = ["id"]
  find              = true # recovers an issue whose answer was lost
  max_live          = 3
  show_once         = true
  revocation_budget = "5s"
}

probe "exec" "keystore" {
  command = "/usr/bin/python3"
  args    = ["-I", "/usr/local/lib/keybroker/keystore.py", "/var/lib/keystore"]
}

secret "app/keystore" {
  backend = "embedded"
  probe   = "keystore"
  issuer "keystore" {
    scopes = ["read", "write"]
  }
  rotation {
    schedule = "0 4 * * 1"
    overlap  = "1h"
    confirm {
      rejections = 3
      window     = "5s"
    }
  }
}
