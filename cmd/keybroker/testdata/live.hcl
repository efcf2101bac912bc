# What the live scripts serve: a key that rotates in a few seconds, and needs no
# other system. ADDR stands for the server's address.
listener "tcp" {
  address = "ADDR"
}
backend "local" "embedded" {}
issuer "api_key" "internal" {}
probe "http" "internal" {
  method                = "POST"
  url                   = "http://ADDR/api/v1/keys/check"
  headers               = { Authorization = "Bearer ${field.key}" }
  allow_private_network = true
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}
rotation_policy "quick" {
  match {
    paths = ["app/*"]
  }
  overlap = "2s"
  verify {
    successes = 2
    interval  = "100ms"
  }
  confirm {
    rejections = 2
    window     = "2s"
  }
}
secret "app/key" {
  backend = "embedded"
  probe   = "internal"
  issuer "internal" {}
}
