backend "local" "b" {}
issuer "set" "users" {}
issuer "set" "elsewhere" {}
issuer "http" "keys" {
  revocation_budget = "1m"
  exclusive         = true
}
rotation_policy "p" {
  overlap = "0s"
}
secret "a" {
  backend = "b"
  proof   = "none"
  issuer "users" { roles = ["x", "y"] }
}
secret "b" {
  backend = "b"
  proof   = "none"
  issuer "users" { roles = ["z", "y"] } # ERROR: The issuer "users" sets the account "y" for the secret "a" already. Two secrets would take it from each other: name another account; the first is at testdata/shared_accounts.hcl:11
}
secret "c" {
  backend = "b"
  proof   = "none"
  issuer "elsewhere" { roles = ["x", "y"] }
}
secret "d" {
  backend = "b"
  proof   = "none"
  issuer "keys" {
    scopes = ["send"]
    user   = "ci"
  }
}
secret "e" {
  backend = "b"
  proof   = "none"
  issuer "keys" { # ERROR: The issuer "keys" makes credentials as are asked for here for the secret "d" already
    user   = "ci"
    scopes = ["send"]
  }
}
secret "f" {
  backend = "b"
  proof   = "none"
  issuer "keys" {
    scopes = ["send"]
    user   = "cd"
  }
}
