# Two tenants, two environments, and everybody comes in by what they can prove.
# See README.md.

listener "tcp" {
  address          = "0.0.0.0:8400"
  tls_cert_file    = "/etc/keybroker/tls.crt" # read again when it changes
  tls_key_file     = "/etc/keybroker/tls.key"
  trusted_proxies  = ["10.1.2.3"] # the ingress: the exact address, nothing wider
  max_request_size = "1MiB"
  limits { # what is left out has its default
    per_identity {
      requests_per_minute = 6000
    }
  }
}

seal "file" { # off loopback not beside the data
  path = "/etc/keybroker/seal.key"
}

# ---- tenants -----------------------------------------------------------------------------------------

tenant "acme" {
  limits { # of all its identities together
    requests_per_minute = 20000
    burst               = 500
  }
}

tenant "globex" {}

# ---- what is kept: a block with a tenant serves that tenant alone -------------------------------------

backend "local" "production" {
  environments = ["production"]
}

backend "local" "staging" {
  environments = ["staging"]
}

issuer "api_key" "internal" {}

issuer "api_key" "acme" {
  tenant = "acme"
}

probe "http" "internal" {
  method  = "POST"
  url     = "https://keybroker.example.com:8400/api/v1/keys/check"
  headers = { Authorization = "Bearer ${field.key}" }
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}

secret "mail/sender" {
  tenant    = "acme"
  backend   = "production"
  probe     = "internal"
  consumers = ["newsletter"]
  labels    = { environment = "production" }
  issuer "acme" {}
}

secret "mail/sender-test" {
  tenant  = "acme"
  backend = "staging"
  probe   = "internal"
  labels  = { environment = "staging" }
  issuer "acme" {}
}

secret "billing/api" {
  tenant  = "globex"
  backend = "production"
  probe   = "internal"
  labels  = { environment = "production" }
  issuer "internal" {}
}

consumer "newsletter" {
  tenant = "acme"
  role   = "newsletter-app" # reads and acknowledges as this role
  webhook {
    url = "https://newsletter.example.com/hooks/keybroker"
  }
}

# ---- who comes in ------------------------------------------------------------------------------------

auth "mtls" "mesh" { # applications: by the certificate of their connection
  ca_file = "/etc/keybroker/mesh-ca.crt"
}

auth "jwt" "cluster" { # jobs: by the token of their service account
  issuer          = "https://kubernetes.default.svc"
  jwks_file       = "/etc/keybroker/cluster-jwks.json"
  bound_audiences = ["keybroker"]
}

auth "oidc" "corp" { # people: keybroker login
  discovery_url   = "https://login.example.com"
  client_id       = "keybroker"
  bound_audiences = ["keybroker"]
}

# ---- who may do what ---------------------------------------------------------------------------------

role "newsletter-app" {
  tenant      = "acme"
  environment = "production" # nothing of staging, and nothing that says no environment
  policies    = ["newsletter-app"]
  bind "mesh" {
    spiffe_id = "spiffe://example.com/newsletter"
  }
  limits {
    cidrs               = ["10.20.0.0/16"]
    requests_per_minute = 1000
  }
}

role "newsletter-ci" {
  tenant      = "acme"
  environment = "staging"
  policies    = ["releases"]
  token_ttl   = "15m"
  bind "cluster" {
    subject = "system:serviceaccount:ci:newsletter"
  }
}

role "acme" { # its own people, for all of its secrets and no others
  tenant        = "acme"
  policies      = ["reader", "rotator"]
  token_ttl     = "8h" # a login is for a working day
  token_max_ttl = "12h"
  bind "corp" {
    claims = { groups = "acme" }
  }
}

role "globex" {
  tenant        = "globex"
  policies      = ["reader", "rotator"]
  token_ttl     = "8h"
  token_max_ttl = "12h"
  bind "corp" {
    claims = { groups = "globex" }
  }
}

role "on-call" { # no tenant: a leak is anybody's
  policies      = ["responder"]
  token_ttl     = "1h"
  token_max_ttl = "12h"
  bind "corp" {
    claims = { groups = ["on-call", "security"] } # one of them
  }
}

role "platform" { # runs the nodes, and reads no secret
  policies      = ["platform"]
  token_ttl     = "1h"
  token_max_ttl = "12h"
  bind "corp" {
    claims = { groups = "platform" }
  }
}

role "admin" { # makes tokens for all others: who makes one has what it may do
  policies      = ["root"]
  token_ttl     = "15m"
  token_max_ttl = "1h"
  bind "corp" {
    claims = { groups = "keybroker-admins" }
  }
}

role "break-glass" { # bound to nobody: keybroker token create --break-glass --role break-glass NAME
  policies = ["responder", "release"]
}

policy "reader" {
  path "*" { # "*" never matches sys/
    capabilities = ["read", "list"]
  }
}

policy "newsletter-app" { # also says that it uses a new version
  path "mail/sender" {
    capabilities = ["read", "list", "update"]
  }
}

policy "rotator" {
  path "*" {
    capabilities = ["read", "list", "rotate"]
    conditions {
      time      = "Mon-Fri 08:00-18:00"
      time_zone = "Europe/Berlin"
    }
  }
}

policy "releases" {
  path "mail/*" {
    capabilities = ["read", "list", "rotate"]
    conditions {
      environments = ["staging"]
      cidrs        = ["10.30.0.0/16"] # the runners
    }
  }
}

policy "responder" {
  path "*" {
    capabilities = ["list", "emergency", "revoke"]
  }
  path "sys/incidents" {
    capabilities = ["list"]
  }
  path "sys/incidents/*" {
    capabilities = ["read", "update", "approve"]
  }
  path "sys/quarantine" {
    capabilities = ["list"]
  }
  path "sys/quarantine/*" {
    capabilities = ["update"]
  }
  path "sys/events" {
    capabilities = ["read"]
  }
  path "sys/freeze" {
    capabilities = ["read", "update"]
  }
  path "sys/audit" {
    capabilities = ["read"]
  }
  path "sys/alerts" {
    capabilities = ["read", "update"]
  }
}

policy "release" { # what is needed to go on when nobody can log in
  path "*" {
    capabilities = ["read", "list", "rotate", "emergency", "revoke"]
  }
}

policy "platform" {
  path "sys/config" {
    capabilities = ["read", "update"]
  }
  path "sys/tokens" {
    capabilities = ["list", "delete"]
  }
  path "sys/storage" {
    capabilities = ["read"]
  }
  path "sys/seal" {
    capabilities = ["read", "update"]
  }
  path "sys/metrics" {
    capabilities = ["read"]
  }
}

# ---- what is written down, and who is told ------------------------------------------------------------

audit "file" { # a copy of the node's own log
  path = "/var/log/keybroker/audit.jsonl"
}

audit "splunk_hec" "siem" {
  url   = "https://splunk.example.com:8088"
  token = file("/run/secrets/splunk-token")
}

notifier "webhook" "pager" {
  url            = "https://pager.example.com/hooks/keybroker"
  signing_secret = file("/run/secrets/pager-whsec")
}

notifier "webhook" "security" {
  url            = "https://chat.example.com/hooks/security"
  signing_secret = file("/run/secrets/chat-whsec")
}

alert "security" {
  notifier  = "pager"
  on        = ["unconfirmed", "resurrected", "stuck_delivery", "drift", "audit_sink_down", "new_root_token", "break_glass"]
  repeat    = "1h"
  heartbeat = "24h" # silence means that this no longer works
  escalate {        # when nobody has acknowledged it
    after    = "30m"
    notifier = "security"
  }
}

alert "acme" { # of its own secrets alone
  tenant   = "acme"
  notifier = "acme"
}

notifier "webhook" "acme" {
  tenant         = "acme"
  url            = "https://acme.example.com/hooks/keybroker"
  signing_secret = file("/run/secrets/acme-whsec")
}

telemetry {
  address = "127.0.0.1:9400" # /metrics without a token; left out: on the API, for who may read sys/metrics
}
