backend "local" "b" {}
issuer "api_key" "i" {}
secret "a/b" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
}
emergency {
  approval_timeout = "1s" # WARNING: An emergency is refused after 1s without approval
}
