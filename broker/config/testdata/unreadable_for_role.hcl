# Consumers whose roles may not read what they are told of.
backend "local" "b" {}
issuer "api_key" "i" {}
rotation_policy "handed-over" {
  limits {
    plain_payload = true
  }
}
rotation_policy "waits" {
  match {
    paths = ["waits"]
  }
  acknowledgement {
    require = "fetched"
  }
}
consumer "app" {
  role = "app"
  webhook {
    url = "https://example.com"
  }
}
consumer "handed" {
  role = "handed"
  webhook {
    url     = "https://example.com"
    payload = "plain"
  }
}
consumer "named" {
  role = "named"
  inbox {}
}
role "app" {
  tenant   = "default"
  policies = ["by-day", "not-here"]
}
role "handed" {
  tenant   = "default"
  policies = ["not-here"]
}
role "named" {
  tenant   = "default"
  policies = ["by-name"]
}
policy "by-day" {
  path "day/*" {
    capabilities = ["read"]
    conditions {
      cidrs = ["10.0.0.0/8"]
      time  = "08:00-18:00"
    }
  }
  path "shut" {
    capabilities = ["read"]
  }
  path "at-night/*" {
    capabilities = ["deny"]
    conditions {
      time = "08:00-18:00"
    }
  }
  path "staged/*" {
    capabilities = ["read"]
    conditions {
      environments = ["staging"]
    }
  }
}
policy "not-here" {
  path "shut" {
    capabilities = ["deny"]
  }
  path "at-night/*" {
    capabilities = ["read"]
  }
}
policy "by-name" {
  path "{{identity.name}}/*" {
    capabilities = ["read"]
  }
}
secret "day/a" {
  backend   = "b"
  proof     = "none"
  consumers = ["app", "handed", "named"]
  issuer "i" {}
}
secret "at-night/a" {
  backend   = "b"
  proof     = "none"
  consumers = ["app"]
  issuer "i" {}
}
secret "staged/a" {
  backend   = "b"
  proof     = "none"
  consumers = ["app"]
  labels    = { environment = "staging" }
  issuer "i" {}
}
secret "staged/b" {
  backend   = "b"
  proof     = "none"
  consumers = ["app"] # WARNING: The consumer "app" is told where to fetch what its role "app" may not read. See testdata/unreadable_for_role.hcl:18: role = "app". Grant "read" in a policy of the role
  labels    = { environment = "production" }
  issuer "i" {}
}
secret "shut" {
  backend = "b"
  proof   = "none"
  consumers = [
    "handed",
    "app", # WARNING: The consumer "app" is told where to fetch what its role "app" may not read
  ]
  issuer "i" {}
}
secret "waits" {
  backend   = "b"
  proof     = "none"
  consumers = ["app", "named"] # ERROR: The consumer "app" cannot fetch, as acknowledgement.require asks: its role "app" may not read the secret. See testdata/unreadable_for_role.hcl:18: role = "app" and testdata/unreadable_for_role.hcl:14: "fetched". Let a policy of the role grant "read", or ask for "received" or "applied".
  issuer "i" {}
}
