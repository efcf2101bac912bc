backend "vault" "prod" {
  address = "https://vault.example.com"
}
backend "vault" "us" {
  address = "https://us.vault.example.com"
}
issuer "api_key" "keys" {}
secret "a" {
  backend = "prod"
  mirrors = ["us"]
  proof   = "none"
  issuer "keys" {}
  rotation {
    overlap = "0s"          # WARNING: max_overlap leaves no time to wait for a mirror that is behind
  }
}
secret "b" {
  backend = "prod"
  mirrors = ["us"]
  proof   = "none"
  issuer "keys" {}
  rotation {
    overlap          = "0s"
    wait_for_mirrors = false
  }
}
secret "c" {
  backend = "prod"
  proof   = "none"
  issuer "keys" {}
  rotation {
    wait_for_mirrors = true # WARNING: wait_for_mirrors is without effect: the secret has no mirrors
  }
}
