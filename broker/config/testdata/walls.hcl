# What leads from one tenant to another.
tenant "acme" {}
tenant "globex" {
  limits {
    requests_per_minute = -1    # ERROR: requests_per_minute lets nothing through
  }
}
tenant "globex" {}              # ERROR: There is a second tenant "globex"
tenant "a/b" {}                 # ERROR: "a/b" is no name for a tenant
policy "reader" {
  path "a/*" {
    capabilities = ["read"]
  }
}
role "acme" {
  tenant   = "acme"
  policies = ["reader"]
}
role "all" {
  policies = ["reader"]
}
role "misspelt" {
  tenant   = "amce"             # ERROR: There is no tenant "amce". Did you mean "acme"?
  policies = ["reader"]
}
notifier "webhook" "shared" {
  url = "https://example.com"
}
notifier "webhook" "acme" {
  tenant = "acme"
  url    = "https://example.com"
}
alert "globex" {
  tenant   = "globex"
  notifier = "acme"             # ERROR: The notifier "acme" belongs to the tenant "acme", this alert to "globex"
}
alert "all" {
  notifier = "shared"
  escalate {
    after    = "1h"
    notifier = "acme"           # ERROR: The notifier "acme" belongs to the tenant "acme", this alert to no tenant
  }
}
backend "local" "shared" {}
backend "local" "acme" {
  tenant = "acme"
}
backend "vault" "acme-vault" {
  tenant  = "acme"
  address = "https://vault.example.com"
}
issuer "api_key" "acme" {
  tenant = "acme"
}
probe "http" "acme" {
  tenant = "acme"
  url    = "https://example.com"
  accepted {
    status = [200]
  }
}
consumer "acme" {
  tenant = "acme"
  role   = "acme"
  webhook {
    url = "https://example.com"
  }
}
consumer "globex" {
  tenant = "globex"
  role   = "acme"               # ERROR: The role "acme" belongs to the tenant "acme", this consumer to "globex". Tenants are kept apart: give both the same tenant, or name another role
  webhook {
    url = "https://example.com"
  }
}
consumer "seer" {
  tenant = "acme"
  role   = "all"                # ERROR: The role "all" belongs to no tenant, this consumer to "acme". The role would see the secrets of all tenants: write tenant = "acme" in its block.
  webhook {
    url = "https://example.com"
  }
}
consumer "default" {
  role = "raeder"               # ERROR: There is no role "raeder"
  webhook {
    url = "https://example.com"
  }
}
secret "a/acme" {
  tenant    = "acme"
  backend   = "acme"
  mirrors   = ["acme-vault"]
  probe     = "acme"
  consumers = ["acme"]
  issuer "acme" {}
}
secret "a/globex" {
  tenant    = "globex"
  backend   = "acme"            # ERROR: The backend "acme" belongs to the tenant "acme", this secret to "globex"
  mirrors   = ["acme-vault"]    # ERROR: The backend "acme-vault" belongs to the tenant "acme", this secret to "globex"
  probe     = "acme"            # ERROR: The probe "acme" belongs to the tenant "acme", this secret to "globex"
  consumers = ["acme"]          # ERROR: The consumer "acme" belongs to the tenant "acme", this secret to "globex"
  issuer "acme" {}              # ERROR: The issuer "acme" belongs to the tenant "acme", this secret to "globex"
}
secret "a/default" {
  backend   = "acme"            # ERROR: The backend "acme" belongs to the tenant "acme", this secret to "default"
  consumers = ["default"]
}
secret "a/misspelt" {
  tenant  = "amce"              # ERROR: There is no tenant "amce"
  backend = "acme"
}
secret "a/wrong" {
  tenant  = ["acme"]            # ERROR: "tenant" is of the wrong type
  backend = "acme"
}
secret "a/unknown" {
  tenat   = "acme"              # ERROR: Did you mean "tenant"?
  backend = "acme"
}
trigger "api" "misspelt" {
  tenant  = "amce"              # ERROR: There is no tenant "amce"
  action  = "rotate"
  secrets = ["a/*"]
}
