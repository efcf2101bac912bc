backend "local" "b" {}
issuer "api_key" "i" {}
rotation_policy "p" {
  match {
    paths = ["nightly/*"]
  }
  overlap  = "1h"
  schedule = "0 12 * * *"
  jitter   = "30m"
  window   = "02:00-05:00, 12:30-13:00" # WARNING: The schedule "0 12 * * *" is never due within the window "02:00-05:00, 12:30-13:00": every rotation waits until that opens
}
secret "nightly/never" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
}
secret "nightly/by-jitter" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
  rotation {
    jitter = "31m"
  }
}
secret "nightly/rarely" { # on the few firsts of a month that are a Sunday
  backend = "b"
  proof   = "none"
  issuer "i" {}
  rotation {
    schedule = "30 2 1 * *"
    window   = "Sun 02:00-03:00"
  }
}
secret "nightly/zone" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
  rotation {
    schedule  = "@every 5m"
    window    = "Sat 23:59-00:00"
    time_zone = "Europe/Berlin"
    overlap   = "1m"
  }
}
secret "too-old" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
  rotation {
    overlap      = "2h"
    min_interval = "48h"
    max_age      = "1h" # ERROR: is not longer than the overlap, 2h0m0s # ERROR: is shorter than min_interval, 48h0m0s
  }
}
secret "key" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
  rotation {
    key {
      alphabet = "hex" # ERROR: The issuer "i" cannot make such a key: keys are made of base62, not of "hex". Leave the alphabet out
    }
  }
}
secret "paired" {
  backend = "b"
  proof   = "none"
  pair    = "a b" # ERROR: "a b" is no name for a pair
  issuer "i" {}
}
secret "static" {
  backend = "b"
  pair    = "p" # WARNING: The pair is without effect: the secret has no issuer
}
