# A policy with all that there is, as platform teams write it.
backend "local" "b" {}
issuer "api_key" "i" {}
issuer "http" "h" {
  revocation_budget = "30m"
}
probe "http" "p" {
  url = "https://x"
  accepted {
    status = [200]
  }
}
rotation_policy "high-risk" {
  match {
    paths  = ["payments/*", "mail/*"] # WARNING: The path "payments/*" matches no secret
    labels = { risk = "high" }
  }
  schedule       = "0 3 1 * *"
  time_zone      = "Europe/Berlin"
  jitter         = "30m"
  window         = "Mon-Fri 02:00-05:00"
  overlap        = "24h"
  min_interval   = "1h"
  max_age        = "35d"
  max_concurrent = 10
  acknowledgement {
    require    = "applied"
    timeout    = "24h"
    on_timeout = "proceed"
  }
  verify {
    successes = 3
    interval  = "2s"
    timeout   = "5m"
  }
  confirm {
    rejections = 3
    window     = "30m"
    recheck    = ["1h", "24h", "168h"]
  }
  key {
    length   = 40
    alphabet = "base62"
    prefix   = "pk"
    checksum = true
  }
  emergency {
    contain        = "replace_first"
    replace_within = "60s"
  }
  limits {
    max_overlap = "48h"
    min_length  = 32
  }
}
secret "mail/sender" {
  backend = "b"
  probe   = "p"
  labels  = { risk = "high", team = "growth" }
  issuer "h" { scopes = ["send"] }
  rotation {
    overlap = "12h"
  }
}
secret "mail/own" {
  backend = "b"
  proof   = "none"
  labels  = { risk = "high" }
  issuer "i" {}
}
