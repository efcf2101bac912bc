listener "tcp" {
  tls_key_file = "tls.key"      # ERROR: There is a key without its certificate
}
telemetry {
  address = "localhost:http"    # ERROR: The address "localhost:http" cannot be listened on: "http" is no port
}
