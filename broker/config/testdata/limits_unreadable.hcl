# Limits that cannot be read are one mistake, not one of each secret.
rotation_policy "p" {
  overlap = "1h"
  limits {
    max_overlap = "soon" # ERROR: "max_overlap" is no duration
    max_age     = 5 # ERROR: "max_age" is no duration
    min_length  = "long" # ERROR: of the wrong type
  }
}
backend "local" "b" {}
issuer "api_key" "i" {}
secret "a" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
}
