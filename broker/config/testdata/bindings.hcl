auth "mtls" "mesh" {
  ca_file = "ca.crt"
}
auth "oidc" "corp" {
  bound_audiences = ["keybroker"]
}
auth "jwt" "cluster" {
  bound_audiences = ["keybroker"]
}
auth "ldap" "directory" {}
policy "reader" {
  path "a/*" {
    capabilities = ["read"]
  }
}
role "everybody" {
  policies = ["reader"]
  bind "mesh" {}                        # ERROR: The bind says nothing, so it binds nobody. Write whom it binds, by spiffe_id, dns_name, common_name, subject.
  bind "mesh" {                         # ERROR: The bind says nothing
    subject = null
  }
  bind "corp" {
    claims = {}                         # ERROR: The claims are empty
  }
  bind "corp" {                         # ERROR: The bind says nothing, so it binds nobody. Write whom it binds, by subject, claims.
    claims = null
  }
  bind "directory" {}                   # ERROR: The bind says nothing
  bind "mash" {                         # ERROR: There is no auth "mash". Did you mean "mesh"?
    subject = "CN=a"
  }
  bind {                                # ERROR: A bind block has 1 labels, here are 0
    subject = "CN=a"
  }
}
role "mesh" {
  policies = ["reader"]
  bind "mesh" {
    claims = { groups = "a" }           # ERROR: An auth "mtls" knows no claims. The auth "mesh" tells who calls by spiffe_id, dns_name, common_name, subject.
  }
  bind "mesh" {
    spiffe_id   = ""                    # ERROR: spiffe_id is empty
    dns_name    = ""                    # ERROR: dns_name is empty
    common_name = ""                    # ERROR: common_name is empty
    subject     = ""                    # ERROR: subject is empty
  }
  bind "mesh" {
    spiffe_id = "example.com/a"         # ERROR: "example.com/a" is no SPIFFE ID
  }
  bind "mesh" {
    spiffe_id = "spiffe://example.com"  # ERROR: is no SPIFFE ID
  }
  bind "mesh" {
    spiffe_id = "spiffe://example.com/a*" # ERROR: is no SPIFFE ID
  }
  bind "mesh" {
    spiffe_id = "spiffe://*/a"          # ERROR: is no SPIFFE ID
  }
  bind "mesh" {
    spiffe_id = "spiffe://example.com/*"
  }
  bind "mesh" {
    dns_name = "a.*.example.com"        # ERROR: "a.*.example.com" is no DNS name
  }
  bind "mesh" {
    dns_name = "*"                      # ERROR: is no DNS name
  }
  bind "mesh" {
    dns_name = 5
    spifeid  = "spiffe://example.com/a" # ERROR: Did you mean "spiffe_id"?
  }
}
role "corp" {
  policies = ["reader"]
  bind "corp" {
    spiffe_id   = "spiffe://example.com/a" # ERROR: An auth "oidc" knows no spiffe_id
    common_name = "a"                   # ERROR: An auth "oidc" knows no common_name
    dns_name    = "a.example.com"       # ERROR: An auth "oidc" knows no dns_name
  }
  bind "cluster" {
    dns_name = "a.example.com"          # ERROR: An auth "jwt" knows no dns_name
  }
  bind "corp" {
    claims = ["a"]                      # ERROR: "claims" is an object
  }
  bind "corp" {
    claims = { groups = [], email = "", name = null, nested = { a = "b" }, deep = [["a"]] } # ERROR: The claim "groups" needs a value # ERROR: The claim "email" needs a value # ERROR: The claim "name" needs a value # ERROR: The claim "nested" needs a value # ERROR: The claim "deep" needs a value
  }
  bind "corp" {
    claims = { groups = env("TOKEN") }  # ERROR: env() cannot be used here
  }
  bind "directory" {
    subject = "a"
    claims  = { a = 5 }
  }
}
