backend "local" "b" {}
issuer "api_key" "i" {}
consumer "app" {
  webhook {
    url = "https://example.com"
  }
}
rotation_policy "base" {
  overlap       = "1h"
  notice_before = "72h" # WARNING: Consumers are told 72h0m0s ahead of a rotation, but one is due every 24h0m0s # WARNING: There is no schedule and no max_age: consumers are told ahead only of what ends by itself
}
secret "never" {
  backend   = "b"
  proof     = "none"
  consumers = ["app"]
  issuer "i" {}
}
secret "daily" {
  backend   = "b"
  proof     = "none"
  consumers = ["app"]
  issuer "i" {}
  rotation {
    schedule = "0 3 * * *"
  }
}
secret "monthly" {
  backend   = "b"
  proof     = "none"
  consumers = ["app"]
  issuer "i" {}
  rotation {
    max_age = "30d"
  }
}
secret "aged" {
  backend   = "b"
  proof     = "none"
  consumers = ["app"]
  issuer "i" {}
  rotation {
    schedule      = "0 3 1 * *"
    max_age       = "2d"
    notice_before = "49h" # WARNING: one is due every 48h0m0s
  }
}
secret "untold" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
}
secret "quiet" {
  backend   = "b"
  proof     = "none"
  consumers = ["app"]
  issuer "i" {}
  rotation {
    notice_before = "0s"
  }
}
