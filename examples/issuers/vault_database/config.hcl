# Users of a PostgreSQL that a Vault makes and drops, a new one every two weeks. Look at
# docs/issuers/vault_database.md and docs/issuers/probe-postgresql.md.

data_dir = "data"

listener "tcp" {
  address = "127.0.0.1:8400"
}

backend "local" "embedded" {}

issuer "vault_database" "orders" {
  address       = "https://vault.example.com:8200"
  mount         = "database"
  list_leases   = true # to find what was made when an answer is lost
  exclusive     = true # nobody else asks for this role
  ends_sessions = true # the role's revocation statements do
  auth "approle" {
    role_id   = env("VAULT_ROLE_ID") # of an AppRole with token_type=batch
    secret_id = env("VAULT_SECRET_ID")
  }
}

probe "postgresql" "orders" {
  host     = "db.example.com"
  database = "orders"
  sslmode  = "verify-full"
}

secret "orders/db" {
  backend = "embedded"
  probe   = "orders"
  issuer "orders" {
    role = "orders-ro"
  }
  rotation {
    schedule = "0 3 1,15 * *"
    overlap  = "24h"
    confirm {
      rejections = 3
      window     = "1m"
    }
  }
}
