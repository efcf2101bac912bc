listener "tcp" {
  limits {}
}
telemetry {
  address       = "metrics:9400" # ERROR: "metrics" is no IP address of this machine
  otlp_endpoint = "x"            # ERROR: There is no attribute "otlp_endpoint" here
}
auth "oidc" "break_glass" {      # ERROR: An auth cannot be called "break_glass"
  bound_audiences = ["keybroker"]
}
