listener "tcp" {
  address       = "0.0.0.0:8400"
  tls_cert_file = "tls.crt"  # ERROR: There is a certificate without its key
}
seal "file" {
  path = "data/../data/x"    # ERROR: may not lie beside the data
}
