backend "local" "b" {}
issuer "http" "slow" {
  max_live          = 5
  revocation_budget = "30m"
}
probe "http" "p" {
  url = "https://x"
  accepted {
    status = [200]
  }
}
secret "a" {
  backend = "b"
  probe   = "p"
  issuer "slow" { scopes = [] }
  rotation {
    confirm {
      window = "1m" # WARNING: The window of 1m0s is shorter than the revocation_budget of 30m0s
    }
  }
}
secret "b" {
  backend = "b"
  probe   = "p"
  issuer "slow" { scopes = [] }
}
