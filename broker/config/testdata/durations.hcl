backend "vault" "prod" {
  address = "https://x"
  renew   = "24 hours"       # ERROR: "renew" is no duration. Write numbers with units
  limits {
    timeout = 30             # ERROR: "timeout" is no duration
  }
}
rotation_policy "p" {
  overlap = "1w"             # ERROR: "overlap" is no duration
  jitter  = "1h1d"           # ERROR: "jitter" is no duration
  confirm {
    recheck = ["1h", "7x"]   # ERROR: "recheck" is no duration
  }
}
rotation_policy "q" {
  overlap = "7d"
  confirm {
    recheck = ["1h", "1d12h", "35d"]
  }
}
