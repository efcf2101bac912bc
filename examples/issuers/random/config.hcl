# A password that two applications share: one shows it, the other asks for it. Both read
# it from keybroker, so there is no other system to tell. Look at docs/issuers/random.md.

data_dir = "data"

listener "tcp" {
  address = "127.0.0.1:8400"
}

backend "local" "embedded" {}

issuer "random" "shared" {
  field = "password"
}

# The application that asks for the password: it takes the current one, and in the overlap
# the one before.
probe "http" "reports" {
  url     = "https://reports.example/login"
  headers = { Authorization = "Bearer ${field.password}" }
  accepted { status = [200] }
  rejected { status = [401] }
}

secret "reports/password" {
  backend = "embedded"
  probe   = "reports"
  issuer "shared" {}
  rotation {
    schedule = "0 4 * * Mon"
    overlap  = "1h"
    key {
      length   = 24
      alphabet = "printable"
      classes  = ["lower", "upper", "digit", "symbol"]
    }
    confirm {
      rejections = 3
      window     = "10m"
    }
  }
}
