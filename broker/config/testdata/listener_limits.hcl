listener "tcp" {
  tls_cert_file    = "tls.crt"
  tls_key_file     = "tls.key"
  tls_min_version  = "1.1"        # ERROR: There is no tls_min_version "1.1" here
  max_request_size = "1 GiB"      # ERROR: Requests of 1 GiB at most are not possible. Write a size between "4KiB" and "64MiB".
  trusted_proxies = [
    "10.1.2.3",
    "10.1.2.3/32",                # ERROR: The proxy "10.1.2.3/32" is listed twice
    "10.1.2.0/24",                # ERROR: "10.1.2.0/24" is a whole network
    "0.0.0.0",                    # ERROR: "0.0.0.0" is no address of a proxy
    "::ffff:10.1.2.5",            # ERROR: is no address of a proxy
    "ingress.example.com",        # ERROR: is no address of a proxy
  ]
  limits {
    per_address {
      requests_per_minute = -5    # ERROR: requests_per_minute lets nothing through
    }
    per_identity {
      burst = 5                   # ERROR: There is a burst without a rate
    }
    per_tenants {                 # ERROR: Did you mean "per_tenant"?
      requests_per_minute = 5
    }
  }
}
telemetry {
  address = "0.0.0.0:9400"        # ERROR: Off loopback metrics would be shown to whoever reaches the address
}
