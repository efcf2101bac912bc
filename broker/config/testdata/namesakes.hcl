auth "oidc" "corp" {
  bound_audiences = ["keybroker"]
  name_claim      = "preferred_username"
}
auth "oidc" "people" {
  bound_audiences = ["keybroker"]
  name_claim      = "sub"
}
auth "jwt" "cluster" {
  bound_audiences = ["keybroker"]
}
policy "own" {
  path "people/{{identity.name}}/*" {
    capabilities = ["read"]
  }
}
policy "team" {
  path "teams/{{identity.tenant}}/*" {
    capabilities = ["read"]
  }
}
role "fine" {
  policies = ["own"]
  bind "people" {
    subject = "a"
  }
  bind "people" {
    subject = "b"
  }
}
role "chosen" {                                # WARNING: The policy "own" of the role "chosen" grants by {{identity.name}}, which the auth "corp" takes from the claim "preferred_username"
  policies = ["team", "own"]
  bind "corp" {
    subject = "a"
  }
  bind "corp" {
    subject = "b"
  }
}
role "both" {                                  # WARNING: two who come in by different auths, "cluster" and "people", may have the same
  policies = ["own"]
  bind "cluster" {
    subject = "a"
  }
  bind "people" {
    subject = "a"
  }
}
role "team" {
  policies = ["team"]
  bind "corp" {
    subject = "a"
  }
}
backend "local" "b" {}
secret "a/b" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
}
issuer "api_key" "i" {}
auth "oidc" "odd" {
  bound_audiences = ["keybroker"]
  name_claim      = null
}
auth "oidc" "numbered" {
  bound_audiences = ["keybroker"]
  name_claim      = 5
}
role "odd" {
  policies = ["own"]
  bind "odd" {
    subject = "a"
  }
}
role "numbered" {                              # WARNING: which the auth "numbered" takes from the claim "5"
  policies = ["own"]
  bind "numbered" {
    subject = "a"
  }
}
