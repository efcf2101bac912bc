auth "mtls" "mesh" {
  ca_file = "ca.crt"
}
auth "oidc" "corp" {
  bound_audiences = ["keybroker"]
}
auth "ldap" "directory" {}
auth "mtls" "token" {                # ERROR: An auth cannot be called "token"
  ca_file = "ca.crt"
}
auth "mtsl" "misspelt" {}            # ERROR: Did you mean "mtls"?
auth "mtls" "nameless" "twice" {}    # ERROR: A auth block has 2 labels, here are 3
auth "oidc" "broken" {               # ERROR: The attribute "bound_audiences" is missing
}
policy "reader" {
  path "a/*" {
    capabilities = ["read"]
  }
}
role "nothing" {                     # ERROR: The attribute "policies" is missing
}
role "empty" {
  policies    = []                   # ERROR: The role "empty" may do nothing
  environment = ""                   # ERROR: The environment is empty
  tenant      = ""                   # ERROR: "" is no name for a tenant
}
role "empty" {                       # ERROR: There is a second role "empty"
  policies = ["reader"]
}
role "policies" {
  policies = [
    "reader",
    "raeder",                        # ERROR: There is no policy "raeder". Did you mean "reader"?
    "reader",                        # ERROR: The policy "reader" is listed twice
  ]
}
role "all" {
  policies = ["root"]
}
role "walled" {
  tenant   = "acme"
  policies = ["reader", "root"]      # ERROR: The policy "root" allows everything, but the role is bound to a tenant or an environment
}
role "walled-too" {
  environment = "production"
  policies    = ["root"]             # ERROR: The policy "root" allows everything
}
role "tokens" {
  policies           = ["reader"]
  token_ttl          = "2d"          # ERROR: token_ttl, 48h0m0s, is longer than token_max_ttl, 24h0m0s
  token_max_ttl      = "1d"
  token_idle_timeout = "0s"          # ERROR: A token cannot live unused for ever
  token_num_uses     = -1            # ERROR: negative number of uses
}
role "negative" {
  policies           = ["reader"]
  token_ttl          = "-1h"         # ERROR: token_ttl cannot be negative
  token_max_ttl      = "-1h"         # ERROR: token_max_ttl cannot be negative
  token_idle_timeout = "-1h"         # ERROR: token_idle_timeout cannot be negative
}
role "limits" {
  policies = ["reader"]
  limits {
    cidrs = [
      "10.20.0.0/16",
      "10.20.0.5/16",                # ERROR: has bits beyond its length. Is "10.20.0.0/16" meant, or "10.20.0.5"?
      "10.20.0.0/33",                # ERROR: "10.20.0.0/33" is no network
      "::ffff:10.20.0.0/112",        # ERROR: is no network
      "fe80::1%eth0",                # ERROR: is no network
      "somewhere",                   # ERROR: is no network
      "10.20.0.0/16",                # ERROR: is listed twice
    ]
    requests_per_minute = 0          # ERROR: requests_per_minute lets nothing through
    burst               = 0          # ERROR: A burst lets at least one request through
  }
}
role "burst" {
  policies = ["reader"]
  limits {
    cidrs = []                       # ERROR: The list of networks is empty
    burst = 5                        # ERROR: There is a burst without a rate
  }
}
role "misspelt" {
  policies = ["reader"]
  limits {
    request_per_minute = 5           # ERROR: Did you mean "requests_per_minute"?
    burst              = 5
  }
}
role "null" {
  tenant             = null
  environment        = null
  policies           = ["reader"]
  token_idle_timeout = null
}
