backend "local" "b" {}
issuer "http" "i" {
  max_live          = 5
  revocation_budget = "1m"
}
probe "http" "p" {
  url = "https://x"
  accepted {
    status = [200]
  }
}
rotation_policy "patient" {
  match {
    paths = ["a"]
  }
  overlap = "1h"
  acknowledgement {
    require = "applied"
    timeout = "72h" # WARNING: The timeout of 72h0m0s is longer than max_overlap
  }
}
secret "a" {
  backend = "b"
  probe   = "p"
  issuer "i" { scopes = [] }
}
