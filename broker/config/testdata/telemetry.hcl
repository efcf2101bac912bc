listener "tcp" {
  tls_min_version = "1.3"          # WARNING: tls_min_version is without effect: the listener speaks plain HTTP
}
telemetry {
  address         = "0.0.0.0:9400"
  allow_anonymous = true
  secret_names    = true           # WARNING: Whoever reaches 0.0.0.0:9400 sees the names of all secrets
}
backend "local" "b" {}
secret "a" {                       # WARNING: has no issuer
  backend = "b"
}
