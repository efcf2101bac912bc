rotation_policy "a" {
  schedule = "61 * * * *"    # ERROR: the minute "61" is wrong
}
rotation_policy "b" {
  schedule = "* * * *"       # ERROR: has 4 fields
}
rotation_policy "c" {
  schedule  = "0 3 * * *"
  time_zone = "Europe/Berln" # ERROR: is no time zone
}
rotation_policy "d" {
  schedule = "0 0 31 2 *"    # ERROR: it would never be due
}
backend "local" "b" {}
issuer "api_key" "i" {}
secret "s" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
  rotation {
    schedule = "@often"      # ERROR: it is one of @hourly
  }
}
