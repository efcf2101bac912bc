backend "local" "here" {}
issuer "api_key" "keys" {}
secret "mail/a" {
  backend = "here"
  tenant  = "acme"
  labels  = { team = "growth" }
  issuer "keys" {}
  proof = "none"
}
secret "pay/a" {
  backend = "here"
  tenant  = "acme"
  labels  = { team = "growth" }
  issuer "keys" {}
  proof = "none"
}

trigger "webhook" "all" {
  action         = "rotate"
  signing_secret = env("TOKEN")
}
trigger "webhook" "labelled" {
  action         = "rotate"
  signing_secret = env("TOKEN")
  match {
    labels = { team = "growth" }
  }
}
trigger "webhook" "both" {
  action         = "emergency"
  tenant         = "acme"
  signing_secret = env("TOKEN")
  secrets        = ["mail/*"]
  max_secrets    = 20
  cooldown       = "1h"
  reason         = "found by the SIEM"
  match {
    paths  = ["pay/a"]
    labels = { team = "growth" }
  }
}
trigger "webhook" "nothing" {
  action         = "rotate"
  signing_secret = env("TOKEN")
  secrets        = []
}
trigger "internal" "noticed" {
  action = "emergency"
  on     = ["resurrected", "drift"]
}
trigger "internal" "hot" {
  action = "rotate"
  threshold {
    reads_per_minute = 600
  }
}
