# keybroker's configuration: it runs as it stands (`keybroker server --config config.hcl`),
# needs no other system, and rotates one demo secret every minute. `keybroker validate`
# reports every mistake with its line. Paths are relative to this file. Credentials never
# stand here: write env("NAME") or file("path") where one belongs.

data_dir = "data" # state, the seal's key, the root token of the first start

# What everything kept is encrypted by: without a block, a key file in data_dir. Off
# loopback it must lie elsewhere; any one of several opens the data:
#   seal "file"          { path = "/etc/keybroker/seal.key" }
#   seal "awskms"        { … }
#   seal "vault_transit" { … }

listener "tcp" {
  address = "127.0.0.1:8400" # off loopback: with tls_cert_file and tls_key_file
}

# Where values are kept: here sealed in our own database; or in a vault:
#   backend "vault" "prod" { … }
#   backend "aws_secrets_manager" "us" { … }
#   backend "aws_parameter_store" "legacy" { … }
# docs/backends.md has every attribute. A secret may have mirrors = ["us"] besides.
backend "local" "embedded" {}

# Who makes credentials and turns them off: here the broker's own API keys.
issuer "api_key" "internal" {}

# How to tell whether a credential works. What is neither accepted nor rejected
# (a timeout, a 500) is inconclusive and proves nothing.
probe "http" "internal" {
  method  = "POST"
  url     = "http://127.0.0.1:8400/api/v1/keys/check"
  headers = { Authorization = "Bearer ${field.key}" }

  allow_private_network = true # loopback and private addresses are refused otherwise

  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}

# How the secrets that it matches rotate. Real life has longer times:
# schedule = "0 3 1 * *", overlap = "24h", window = "30m".
rotation_policy "demo" {
  match {
    paths = ["demo/*"]
  }
  schedule = "* * * * *" # cron: every minute
  overlap  = "20s"       # old and new key both work for so long
  # max_age = "35d", window = "Mon-Fri 02:00-05:00", notice_before = "72h", limits { … }:
  # docs/policies.md has every setting
  # approval = true      # no rotation begins before somebody else approves it: keybroker rotation approve ID

  verify { # before the new key is published
    successes = 2
    interval  = "500ms"
  }
  confirm { # after the old key was revoked
    rejections = 3
    window     = "8s"
    recheck    = ["1h", "24h", "7d"]
  }
  limits {
    plain_payload = true # consumers may be sent the key itself; without it none is
  }
}

secret "demo/api-key" {
  backend   = "embedded"
  probe     = "internal"
  consumers = ["demo-app"]
  issuer "internal" {}
}

# Who is told of a new key: examples/consumer listens there. A payload "plain" carries
# the key itself, only to loopback or over https, and only where a policy allows it;
# "sealed" carries it encrypted to the consumer's own key; "reference", the default, makes
# the consumer fetch it. Messages are signed with a key that the broker makes, keeps, and
# publishes below /.well-known/keybroker/webhook-keys/. docs/consumers.md has the rest.
consumer "demo-app" {
  webhook {
    url                   = "http://127.0.0.1:8410/hooks/keybroker"
    payload               = "plain"
    allow_private_network = true
  }
}

# `POST /api/v1/events/leak-scanner` may declare an emergency for these secrets.
trigger "api" "leak-scanner" {
  action  = "emergency"
  secrets = ["demo/*"]
}

# One person alone turns off at most that many secrets: of more, somebody else approves.
emergency {
  approval_above   = 100
  approval_timeout = "24h"
}

# Who may do what: `keybroker token create NAME --policy POLICY` makes a token. "*" never
# matches sys/, where everything lives that is no secret. Whom an identity provider or a
# CA knows gets a role instead; examples/access has that, tenants and environments:
#   auth "oidc" "corp"  { … }
#   role "on-call"      { policies = ["responder"] … bind "corp" { claims = { groups = "on-call" } } }
# Where the audit log is sent besides data_dir, and who is told when something is wrong:
#   audit "file"        { path = "/var/log/keybroker/audit.jsonl" }
#   notifier "webhook" "pager" { … }
#   alert "security"    { notifier = "pager" }
policy "demo-reader" {
  path "demo/*" {
    capabilities = ["read", "read_previous", "list"]
  }
}

policy "leak-scanner" {
  path "sys/events/leak-scanner" {
    capabilities = ["create"]
  }
}

policy "operator" {
  path "*" {
    capabilities = ["list", "rotate", "approve", "update"] # update: pause, resume, repair, import, drift restore
  }
  path "sys/freeze" {
    capabilities = ["read", "update"]
  }
  path "sys/consumers/*" { # keybroker consumer list, show, test, enable, rotate-signing
    capabilities = ["list", "read", "update"]
  }
  path "sys/config" { # keybroker reload
    capabilities = ["read", "update"]
  }
  path "sys/seal" { # keybroker seal status, verify, rotate
    capabilities = ["read", "update"]
  }
}

policy "backup" {
  path "sys/storage" { # keybroker storage snapshot, status
    capabilities = ["read"]
  }
  path "sys/offline-kit" { # keybroker offline kit
    capabilities = ["read"]
  }
}

policy "responder" {
  path "*" {
    capabilities = ["list", "emergency", "revoke"]
  }
  path "sys/incidents" { # keybroker incident list
    capabilities = ["list"]
  }
  path "sys/incidents/*" { # show, watch, report; note, check, close, hold; approve, reject
    capabilities = ["read", "update", "approve"]
  }
  path "sys/quarantine" { # keybroker quarantine list
    capabilities = ["list"]
  }
  path "sys/quarantine/*" { # add, lift
    capabilities = ["update"]
  }
  path "sys/events" { # keybroker event list, show, apply; trigger list
    capabilities = ["read"]
  }
  path "sys/audit" { # keybroker audit query
    capabilities = ["read"]
  }
  path "sys/alerts" { # keybroker alert list, ack
    capabilities = ["read", "update"]
  }
}

# Beside responder, for the few who may turn off more than approval_above alone, when
# nobody is there to approve it: keybroker emergency … --override
policy "responder-lead" {
  path "sys/incidents/override" {
    capabilities = ["emergency"]
  }
}
