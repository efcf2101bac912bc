backend "local" "b" {}
issuer "api_key" "i" {}
secret "a" {                 # ERROR: nothing could prove that a revoked credential fails
  backend = "b"
  issuer "i" {}
}
secret "b" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
}
secret "c" {
  backend = "b"
  proof   = "maybe"          # ERROR: "maybe" is no value of proof
  issuer "i" {}
}
probe "http" "p" {
  url = "https://x"
  accepted {
    status = [200]
  }
}
secret "d" {
  backend = "b"
  probe   = "p"
  issuer "i" {}
  rotation {
    confirm {
      rejections = 1         # ERROR: One rejection proves nothing
    }
  }
}
secret "static" {
  backend = "b"
  rotation {                 # WARNING: without effect: the secret has no issuer
    overlap = "1h"
  }
}
