# Who may do what, without a mistake.
listener "tcp" {
  address          = "0.0.0.0:8400"
  tls_cert_file    = "tls.crt"
  tls_key_file     = "tls.key"
  trusted_proxies  = ["10.1.2.3/32", "2001:db8::1/128", "10.1.2.4"]
  max_request_size = "2MiB"
  limits {
    per_address {
      requests_per_minute = 6000
      burst               = 200
    }
    per_identity {
      requests_per_minute = 1200
    }
    per_tenant {
      requests_per_minute = 12000
    }
  }
}
seal "file" {
  path = "/etc/keybroker/seal.key"
}
telemetry {
  address      = "127.0.0.1:9400"
  secret_names = true
}
tenant "acme" {
  limits {
    requests_per_minute = 600
    burst               = 60
  }
}
tenant "globex" {}
auth "mtls" "mesh" {
  ca_file = "mesh-ca.crt"
}
auth "oidc" "corp" {
  discovery_url   = "https://login.example.com"
  client_id       = "keybroker"
  bound_audiences = ["keybroker"]
}
auth "jwt" "cluster" {
  bound_audiences = ["keybroker"]
}
role "newsletter-app" {
  tenant             = "acme"
  environment        = "production"
  policies           = ["mail-reader"]
  token_ttl          = "1h"
  token_max_ttl      = "1d"
  token_idle_timeout = "30m"
  token_num_uses     = 100
  bind "mesh" {
    spiffe_id   = "spiffe://example.com/newsletter/*"
    dns_name    = "*.newsletter.example.com"
    common_name = "newsletter"
    subject     = "CN=newsletter,O=Example"
  }
  bind "cluster" {
    subject = "system:serviceaccount:mail:newsletter"
  }
  limits {
    cidrs               = ["10.20.0.0/16", "2001:db8::/32", "192.0.2.7"]
    requests_per_minute = 1000
    burst               = 50
  }
}
role "on-call" {
  policies = ["responder", "root"]
  bind "corp" {
    claims = { groups = "on-call", region = ["eu", "us"], email_verified = true }
  }
}
policy "mail-reader" {
  path "mail/*" {
    capabilities = ["read"]
    conditions {
      environments = ["production"]
      cidrs        = ["10.0.0.0/8"]
      time         = "Mon-Fri 08:00-18:00"
      time_zone    = "Europe/Berlin"
    }
  }
}
policy "responder" {
  path "*" {
    capabilities = ["list", "emergency", "revoke"]
  }
}
audit "file" {
  path = "audit.jsonl"
}
audit "file" "second" {
  path = "second.jsonl"
}
audit "splunk_hec" "siem" {
  url   = "https://splunk.example.com:8088"
  token = env("TOKEN")
}
notifier "webhook" "pager" {
  url = "https://pager.example.com/hooks/keybroker"
}
notifier "webhook" "boss" {
  url = "https://pager.example.com/hooks/boss"
}
notifier "webhook" "acme" {
  tenant = "acme"
  url    = "https://acme.example.com/hooks/keybroker"
}
alert "security" {
  notifier  = "pager"
  on        = ["unconfirmed", "resurrected", "audit_sink_down"]
  repeat    = "1h"
  heartbeat = "1d"
  escalate {
    after    = "30m"
    notifier = "boss"
  }
}
alert "acme" {
  tenant   = "acme"
  notifier = "acme"
}
backend "local" "embedded" {
  environments = ["production", "staging"]
}
backend "local" "acme" {
  tenant       = "acme"
  environments = ["production"]
}
issuer "api_key" "keys" {
  tenant = "acme"
}
probe "http" "mailer" {
  tenant = "acme"
  url    = "https://api.example.com/${field.key}"
  accepted {
    status = [200]
  }
}
consumer "newsletter" {
  tenant = "acme"
  role   = "newsletter-app"
  webhook {
    url = "https://example.com/hook"
  }
}
secret "mail/sender" {
  tenant    = "acme"
  backend   = "acme"
  probe     = "mailer"
  consumers = ["newsletter"]
  labels    = { environment = "production" }
  issuer "keys" {}
}
trigger "api" "leaks" {
  tenant  = "acme"
  action  = "emergency"
  secrets = ["mail/*"]
}
