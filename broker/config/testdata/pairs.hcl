backend "local" "b" {}
issuer "api_key" "i" {}
rotation_policy "daily" {
  overlap  = "8h"
  schedule = "0 3 * * *"
}
secret "alone" {
  backend = "b"
  proof   = "none"
  pair    = "one" # WARNING: The pair "one" has one secret alone. Give another secret of the tenant "default" the same pair
  issuer "i" {}
}
secret "alone" {
  tenant  = "acme"
  backend = "b"
  proof   = "none"
  pair    = "one" # WARNING: Give another secret of the tenant "acme" the same pair
  issuer "i" {}
}
secret "left" {
  backend = "b"
  proof   = "none"
  pair    = "two"
  issuer "i" {}
}
secret "right" {
  backend = "b"
  proof   = "none"
  pair    = "two"
  issuer "i" {}
}
secret "crowd/1" {
  backend = "b"
  proof   = "none"
  pair    = "three" # WARNING: The overlaps of the 3 secrets of the pair "three" leave no time
  issuer "i" {}
}
secret "crowd/2" {
  backend = "b"
  proof   = "none"
  pair    = "three"
  issuer "i" {}
}
secret "crowd/3" {
  backend = "b"
  proof   = "none"
  pair    = "three"
  issuer "i" {}
  rotation {
    schedule = ""
    max_age  = "24h"
  }
}
