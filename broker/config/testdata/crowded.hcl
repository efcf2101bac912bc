backend "local" "b" {}
issuer "api_key" "i" {}
rotation_policy "hourly" {
  schedule = "0 * * * *"     # WARNING: The schedule is due every 1h0m0s, but overlap and verification take 24h0m2s
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
}
secret "c" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
  rotation {
    overlap = "10m"
  }
}
