data_dri = "x"               # ERROR: Did you mean "data_dir"?
listener "tcp" {
  adress = "127.0.0.1:8400"  # ERROR: Did you mean "address"?
  colour = "blue"            # ERROR: Known are address, allow_plain_http, max_request_size, tls_cert_file, tls_key_file, tls_min_version, trusted_proxies.
}
