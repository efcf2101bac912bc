listener "tcp" {
  max_request_size = "a lot"       # ERROR: "a lot" is no size
}
telemetry {
  address       = "127.0.0.1:8400" # ERROR: The API listens on 127.0.0.1:8400 already
  otlp_endpoint = "x"              # ERROR: There is no attribute "otlp_endpoint" here
}
