backend "local" "b" {}
issuer "api_key" "i" {}
issuer "http" "h" { revocation_budget = "1m" }
rotation_policy "base" { # it limits others and gives nothing itself
  limits {
    max_overlap = "12h"
    max_age     = "90d"
    min_length  = 32
  }
}
rotation_policy "generous" {
  match {
    paths = ["generous/*"]
  }
  overlap = "24h" # ERROR: than max_overlap of the rotation policy "base", 12h0m0s. The limit stands at testdata/rotation_limits.hcl:6: max_overlap = "12h". Shorten the overlap, or raise the limit
  max_age = "35d"
  key {
    length = 32
  }
  limits {
    max_overlap = "48h"
  }
}
rotation_policy "torn" {
  match {
    labels = { risk = "high" }
  }
  overlap = "2h" # ERROR: An overlap of 2h0m0s is longer than max_overlap of the rotation policy "torn", 1h0m0s. The limit stands at testdata/rotation_limits.hcl:34: max_overlap = "1h"
  max_age = "30d"
  key {
    length = 8 # ERROR: A key of 8 characters is shorter than min_length of the rotation policy "torn", 16 characters
  }
  limits {
    max_overlap = "1h"
    min_length  = 16
  }
}
rotation_policy "senseless" {
  match {
    labels = { none = "such" }
  }
  max_concurrent = 0 # ERROR: No secret of the policy could ever rotate
  window         = "Mon 02:00" # ERROR: is no time of the week
  max_age        = "12h" # ERROR: not longer than the overlap, 24h0m0s
  key {
    classes = ["lower", "uper"] # ERROR: Did you mean "upper"?
  }
  limits {
    max_overlap = "-1h" # ERROR: max_overlap is negative
    max_age     = "0s" # ERROR: No credential is younger than 0s
    min_length  = 0 # ERROR: limits nothing
  }
}
secret "generous/a" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
}
secret "generous/b" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
  rotation {
    overlap = "1h"
    max_age = "100d" # ERROR: A max_age of 2400h0m0s is longer than max_age of the rotation policy "base", 2160h0m0s. The limit stands at testdata/rotation_limits.hcl:7
    key {
      length = 30 # ERROR: A key of 30 characters is shorter than min_length of the rotation policy "base", 32 characters
    }
  }
}
secret "elsewhere" { # ERROR: The default overlap of 24h0m0s is longer than # ERROR: Credentials may become of any age # ERROR: A key of 30 characters is shorter
  backend = "b"
  proof   = "none"
  issuer "i" {}
}
secret "its/own/keys" {
  backend = "b"
  proof   = "none"
  issuer "h" { scopes = [] }
  rotation {
    overlap        = "0s"
    max_age        = "90d"
    max_concurrent = 3 # ERROR: There is no attribute "max_concurrent" here
  }
}
secret "static" {
  backend = "b"
}
