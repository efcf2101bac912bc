# What the demo has beside config.hcl: a key that nothing rotates for a month, and that has
# leaked. docs/runbook.md begins with it.
rotation_policy "shop" {
  match {
    paths = ["shop/*"]
  }
  max_age = "30d"
  verify {
    successes = 2
    interval  = "500ms"
  }
  confirm {
    rejections = 3
    window     = "8s"
    recheck    = ["1h", "24h", "7d"]
  }
  limits {
    plain_payload = true
  }
}

secret "shop/payment-key" {
  backend   = "embedded"
  probe     = "internal"
  consumers = ["demo-app"]
  issuer "internal" {}
}
