backend "local" "b" {}
issuer "http" "two" {
  max_live          = 2
  soak              = "24h"
  revocation_budget = "1m"
}
issuer "http" "three" {
  max_live          = 3
  soak              = "24h"
  revocation_budget = "1m"
}
secret "daily" {
  backend = "b"
  proof   = "none"
  issuer "two" {
    scopes = ["daily"]
  }
  rotation {
    schedule = "0 3 * * *"     # WARNING: A rotation is due every 24h0m0s, but a credential takes one of the issuer's 2 places until 28h0m2s after its successor came
    overlap  = "4h"
  }
}
secret "daily/roomy" {
  backend = "b"
  proof   = "none"
  issuer "three" {
    scopes = ["roomy"]
  }
  rotation {
    schedule = "0 3 * * *"
    overlap  = "4h"
  }
}
secret "weekly" {
  backend = "b"
  proof   = "none"
  issuer "two" {
    scopes = ["weekly"]
  }
  rotation {
    schedule = "0 3 * * 1"
    overlap  = "4h"
  }
}
secret "aging" {
  backend = "b"
  proof   = "none"
  issuer "two" {
    scopes = ["aging"]
  }
  rotation {
    max_age = "25h"            # WARNING: A rotation is due every 25h0m0s
    overlap = "4h"
  }
}
