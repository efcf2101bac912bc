data_dir = "state"
listener "tcp" {
  address = "127.0.0.1:0"
}
storage "sqlite" {
  path = "state/x.db"
}
backend "vault" "prod" {
  address      = "https://vault.example.com"
  environments = ["production", ""]
  renew        = "1d"
  token        = env("TOKEN")
  auth "approle" {
    role_id        = "role-${env("TOKEN")}"
    secret_id_file = "secret-id"
  }
  headers = { X = (env("TOKEN")) }
  keys    = [file("token.txt")]
  limits {
    requests_per_second = 2.5
    timeout             = "3s"
    max_concurrent      = 4
  }
}
backend "vault" "us" {
  address     = "https://us.vault.example.com"
  drift_check = "1h"
}
backend "local" "old" {
  read_only   = true
  drift_check = "0s"
}
issuer "http" "mailer" {
  revocation_budget = "30m"
}
probe "http" "mailer" {
  url     = "https://api.example.com/${field.key}"
  headers = { Authorization = "Bearer ${field.key}" }
  auth "bearer" {
    token = file("token.txt")
  }
  accepted {
    status = [200]
  }
}
rotation_policy "monthly" {
  match {
    paths  = ["mail/*"]
    labels = { risk = "high" }
  }
  schedule     = "0 3 1 * *"
  time_zone    = "Europe/Berlin"
  jitter       = "30m"
  window       = "Mon-Fri 02:00-05:00"
  max_age      = "35d"
  overlap      = "24h"
  min_interval = "1h"

  notice_before = "72h"

  approval     = true

  max_concurrent = 10
  acknowledgement {
    require    = "applied"
    timeout    = "12h"
    on_timeout = "hold"
  }
  verify {
    successes = 3
    interval  = "1s"
    timeout   = "1m"
  }
  confirm {
    rejections = 4
    recheck    = ["1h", "7d"]
  }
  key {
    length   = 40
    alphabet = "base62"
    prefix   = "pk"
    checksum = true
    classes  = ["lower", "digit"]
  }
  emergency {
    contain        = "revoke_first"
    replace_within = "30s"
  }
  limits {
    max_overlap = "36h"
    max_age     = "40d"
    min_length  = 32

    plain_payload = false
  }
}
policy "reader" {
  path "mail/*" {
    capabilities = ["read"]
  }
}
consumer "newsletter" {
  tenant    = "acme"
  role      = "newsletter"
  events    = ["secret.rotating", "secret.proven_dead"]
  instances = 3
  webhook {
    url                 = "https://example.com/hook"
    payload             = "sealed"
    public_key_file     = "recipient.jwk"
    concurrency         = 2
    tls_min_version     = "1.2"
    pins                = ["sha256//AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "sha256//AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]
    signing_secret_file = "signing_keys.txt"
  }
}
consumer "collector" {
  tenant = "acme"
  role   = "newsletter"
  events = []
  inbox {}
}
role "newsletter" {
  tenant   = "acme"
  policies = ["reader"]
}
secret "mail/sender" {
  tenant    = "acme"
  backend   = "prod"
  mirrors   = ["us"]
  on_drift  = "restore"
  probe     = "mailer"
  consumers = ["newsletter"]
  labels    = { risk = "high", environment = "production" }
  pair      = "mail" # WARNING: The pair "mail" has one secret alone
  issuer "mailer" {
    scopes = ["send"]
    limits = { daily = 5 }
  }
  rotation {
    overlap          = "12h"
    wait_for_mirrors = false
  }
}
secret "mail/static" { # WARNING: has no issuer: nobody can rotate or fill it
  backend = "prod"
}
trigger "api" "ci" {
  action  = "rotate"
  secrets = ["mail/*"]
}
