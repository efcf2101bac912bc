# Logins to a PostgreSQL server: a pair of roles whose passwords are set in turn, so that
# the old one goes on working for the overlap, and a single role that is set in place.
# Look at docs/issuers/postgresql.md.

data_dir = "data"

listener "tcp" {
  address = "127.0.0.1:8400"
}

backend "local" "embedded" {}

issuer "postgresql" "orders-db" {
  host     = "db.example.com"
  database = "orders"
  username = "keybroker"
  password = env("ORDERS_ADMIN")
  sslmode  = "verify-full"
}

probe "postgresql" "orders-db" {
  host     = "db.example.com"
  database = "orders"
  sslmode  = "verify-full"
}

secret "orders/db" {
  backend = "embedded"
  probe   = "orders-db"
  issuer "orders-db" {
    roles = ["orders_a", "orders_b"]
  }
  rotation {
    schedule = "0 3 1 * *"
    overlap  = "24h"
    key {
      length   = 40
      alphabet = "base62"
    }
    confirm {
      rejections = 3
      window     = "1m"
    }
  }
}

secret "orders/reporting" {
  backend = "embedded"
  probe   = "orders-db"
  issuer "orders-db" {
    role = "reporting" # no second role: its password is replaced at once
  }
  rotation {
    schedule = "0 4 1 * *"
    overlap  = "0s"
    confirm {
      rejections = 3
      window     = "1m"
    }
  }
}
