backend "local" "b" {
  drift_check           = "-1m"  # ERROR: drift_check cannot be negative
  limits {
    timeout             = "-1s"  # ERROR: A limit cannot be negative
    requests_per_second = -1     # ERROR: A limit cannot be negative
    max_concurrent      = -1     # ERROR: A limit cannot be negative
  }
}
