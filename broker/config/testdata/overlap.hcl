backend "local" "b" {}
issuer "http" "short" {
  max_overlap       = "1h"
  revocation_budget = "1m"
}
issuer "http" "single" {
  max_live          = 1
  revocation_budget = "1m"
}
issuer "set" "user" {}
probe "http" "p" {
  url = "https://x"
  accepted {
    status = [200]
  }
}
rotation_policy "long" {
  match {
    paths = ["long/*"]
  }
  overlap = "2h"             # ERROR: The issuer "short" cannot give an overlap of 2h0m0s
}
secret "long/a" {
  backend = "b"
  probe   = "p"
  issuer "short" { scopes = [] }
}
secret "long/b" {
  backend = "b"
  probe   = "p"
  issuer "short" { scopes = [] }
  rotation {
    overlap = "30m"
  }
}
secret "long/c" {
  backend = "b"
  probe   = "p"
  issuer "single" { scopes = [] } # ERROR: The issuer "single" allows one live credential
  rotation {
    overlap = "3h"
  }
}
secret "long/d" {
  backend = "b"
  probe   = "p"
  issuer "single" { scopes = [] } # ERROR: a rotation needs two
  rotation {
    overlap = "0s"
  }
}
secret "turns" {
  backend = "b"
  probe   = "p"
  issuer "user" { roles = ["a", "b"] }
}
secret "one" {
  backend = "b"
  probe   = "p"
  issuer "user" { roles = ["c"] }
  rotation {
    overlap = "1m"           # ERROR: or give the secret a second account to take turns with
  }
}
secret "other" {             # ERROR: The issuer "user" cannot give an overlap: it has one account for the secret, whose old credential ends
  backend = "b"
  probe   = "p"
  issuer "user" {}
}
