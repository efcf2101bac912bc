backend "local" "b" {}
issuer "api_key" "plain" {}
issuer "http" "api" {
  revocation_budget = "1m"
}
secret "a" {
  backend = "b"
  proof   = "none"
  issuer "api" {}            # ERROR: The issuer "api" does not take these settings. Scopes is missing.
}
secret "b" {
  backend = "b"
  proof   = "none"
  issuer "plain" {           # ERROR: It takes none: leave the block empty.
    scopes = ["a"]
  }
}
secret "c" {
  backend = "b"
  proof   = "none"
  issuer "api" {
    scopes {                 # ERROR: Settings are attributes: write scopes = { … }.
    }
    name = who               # ERROR: There is no variable "who"
  }
}
secret "d" { # ERROR: rotates without a probe
  backend = "b"
  issuer {}                  # ERROR: has one label, here are 0
}
