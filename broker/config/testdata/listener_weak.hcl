listener "tcp" {
  tls_cert_file    = "tls.crt"
  tls_key_file     = "tls.key"
  tls_min_version  = "1.2"         # WARNING: TLS 1.2 is weaker than 1.3
  trusted_proxies  = ["127.0.0.1"] # WARNING: The trusted proxy 127.0.0.1 is this machine
  max_request_size = "64KiB"
}
telemetry {
  prometheus = false
  address    = "127.0.0.1:9400"    # WARNING: The address is without effect
}
backend "local" "b" {}
secret "a" {                       # WARNING: has no issuer
  backend = "b"
}
