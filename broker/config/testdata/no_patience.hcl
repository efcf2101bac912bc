backend "local" "b" {}
issuer "api_key" "i" {}
rotation_policy "impatient" {
  acknowledgement {
    require = "applied"
    timeout = "0s" # WARNING: The timeout of 0s waits for nobody
  }
}
secret "a" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
}
secret "b" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
  rotation {
    acknowledgement {
      require    = "applied"
      timeout    = "0s"
      on_timeout = "hold"
    }
  }
}
secret "c" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
  rotation {
    acknowledgement {
      require = "none"
      timeout = "0s"
    }
  }
}
