listener "tcp" {
  address          = "10.0.0.1:8400" # WARNING: Nobody is told when something is wrong
  allow_plain_http = true
}
seal "file" {
  path = "/etc/keybroker/seal.key"
}
auth "mtls" "mesh" {                 # WARNING: Nobody comes in by the auth "mesh": over plain HTTP nobody shows a certificate
  ca_file = "ca.crt"
}
auth "oidc" "corp" {                 # WARNING: Nobody comes in by the auth "corp": no role binds it
  bound_audiences = ["keybroker"]
}
notifier "webhook" "pager" {         # WARNING: The notifier "pager" tells nobody
  url = "https://pager.example.com"
}
policy "reader" {
  path "a/*" {
    capabilities = ["read"]
  }
}
policy "writer" {                    # WARNING: No role names the policy "writer": only tokens that are made with it have it
  path "a/*" {
    capabilities = ["update"]
  }
}
policy "operator" {
  path "sys/token" {                 # WARNING: There is nothing at the path "sys/token". Did you mean "sys/tokens"?
    capabilities = ["list"]
  }
  path "sys/tokens" {
    capabilities = ["list", "rotate"] # WARNING: Nobody ever asks for rotate on "sys/tokens". There it is list, create, delete.
  }
  path "sys/break-glass" {
    capabilities = ["deny"]
  }
  path "sys/events/scanner" {
    capabilities = ["create"]
  }
  path "sys/+" {
    capabilities = ["create", "read", "revoke"] # WARNING: Nobody ever asks for revoke on "sys/+"
  }
  path "sys/*" {
    capabilities = ["create", "read", "update", "delete", "list"]
  }
}
role "operator" {
  policies = ["operator"]
}
role "app" {
  policies = ["reader"]
  bind "mesh" {
    common_name = "app"
  }
}
role "acme" {                        # WARNING: The role "acme" reaches no secret: none is of its tenant and environment
  tenant   = "acme"
  policies = ["reader"]
}
role "staging" {                     # WARNING: The role "staging" reaches no secret
  environment = "staging"
  policies    = ["reader"]
}
backend "local" "b" {}
issuer "api_key" "i" {}
secret "a/b" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
}
trigger "api" "acme" {
  tenant  = "acme"
  action  = "rotate"
  secrets = ["a/*"]                  # WARNING: The path "a/*" matches no secret of the tenant "acme"
}
trigger "internal" "nobodys" {
  tenant = "acme"                    # WARNING: The tenant "acme" has no secret
  action = "rotate"
  on     = ["drift"]
}
