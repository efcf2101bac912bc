listener "tcp" { # WARNING: The configuration declares no secret
  address       = ":8400"
  tls_cert_file = "tls.crt"
  tls_key_file  = "tls.key"
}
seal "file" {
  path = "data-keys/seal.key"
}
