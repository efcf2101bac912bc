listener "tcp" {
  address       = ":8400"
  tls_cert_file = "tls.crt"
  tls_key_file  = "tls.key"
}
seal "kms" {
  key = "a"
}
seal "file" {
  path = "keys/seal.key"
}
seal "file" {
  path = "data/seal.key" # ERROR: Off loopback the seal's key may not lie beside the data
}
seal "file" {
  insecure_colocated = false
  path               = "data/other.key" # ERROR: Off loopback the seal's key may not lie beside the data
}
seal "file" {
  insecure_colocated = true
  path               = "data/accepted.key"
}
