listener "tcp" { # WARNING: The configuration declares no secret
  address          = "0.0.0.0:8400"
  allow_plain_http = true
}
seal "file" {
  insecure_colocated = true
}
