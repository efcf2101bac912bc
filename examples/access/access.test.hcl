# What config.hcl is meant to come to:
# keybroker policy test --config examples/access/config.hcl examples/access

test "the newsletter reads its key, and says that it uses it" {
  role    = "newsletter-app"
  path    = "mail/sender"
  address = "10.20.3.4"
  allow   = ["read", "list", "update"]
  deny    = ["rotate", "revoke", "delete"]
}

test "it does so from its own network alone" {
  role    = "newsletter-app"
  path    = "mail/sender"
  address = "192.0.2.7"
  deny    = ["read", "update"]
}

test "its test key is of another environment" {
  role    = "newsletter-app"
  path    = "mail/sender-test"
  address = "10.20.3.4"
  deny    = ["read", "update"]
}

test "releases rotate the test key, from the runners" {
  role    = "newsletter-ci"
  path    = "mail/sender-test"
  address = "10.30.0.9"
  allow   = ["read", "rotate"]
  deny    = ["revoke"]
}

test "and nothing of production" {
  role    = "newsletter-ci"
  path    = "mail/sender"
  address = "10.30.0.9"
  deny    = ["read", "rotate"]
}

test "acme rotates its own by day" {
  role  = "acme"
  path  = "mail/sender"
  at    = "2026-03-02T12:00:00+01:00"
  allow = ["read", "rotate"]
}

test "and not at night" {
  role  = "acme"
  path  = "mail/sender"
  at    = "2026-03-02T23:00:00+01:00"
  allow = ["list"]
  deny  = ["rotate"]
}

test "globex has nothing of acme" {
  role = "globex"
  path = "mail/sender"
  at   = "2026-03-02T12:00:00+01:00"
  deny = ["read", "list", "rotate"]
}

test "on call contains leaks of everybody, and reads none" {
  role  = "on-call"
  path  = "billing/api"
  allow = ["list", "emergency", "revoke"]
  deny  = ["read", "rotate"]
}

test "on call finds out who has it" {
  role  = "on-call"
  path  = "sys/audit"
  allow = ["read"]
}

test "who opens the safe contains leaks, and goes on" {
  role  = "break-glass"
  path  = "billing/api"
  allow = ["read", "rotate", "emergency", "revoke"]
}

test "who opens the safe is no admin" {
  role = "break-glass"
  path = "sys/tokens"
  deny = ["create", "list", "delete"]
}

test "the platform's people see and end tokens" {
  role  = "platform"
  path  = "sys/tokens"
  allow = ["list", "delete"]
  deny  = ["create"]
}

test "and read no secret" {
  role = "platform"
  path = "mail/sender"
  deny = ["read", "list"]
}

test "admins make tokens" {
  role  = "admin"
  path  = "sys/tokens"
  allow = ["create", "list", "delete"]
}

test "those for the safe, too" {
  role  = "admin"
  path  = "sys/break-glass"
  allow = ["create"]
}
