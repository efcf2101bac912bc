issuer "api_key" "a" {}
issuer "http" "a" {          # ERROR: There is a second issuer "a"
  revocation_budget = "1m"
}
policy "p" {
  path "a" {
    capabilities = ["read"]
  }
  path "a" {                 # ERROR: stands in this policy twice
    capabilities = ["list"]
  }
}
policy "p" {}                # ERROR: the first is at testdata/duplicates.hcl:5
rotation_policy "r" {}
rotation_policy "r" {        # ERROR: There is a second rotation_policy "r"
  verify {}
  verify {}                  # ERROR: Only one is allowed; the first is at testdata/duplicates.hcl:16
}
consumer "c" {
  webhook {
    url = "https://example.com"
  }
}
consumer "c" {               # ERROR: There is a second consumer "c"
  webhook {
    url = "https://example.com"
  }
}
backend "local" "b" {}
secret "s" {
  backend   = "b"
  consumers = ["c", "c"]     # ERROR: The consumer "c" is listed twice
}
trigger "api" "t" {
  action  = "rotate"
  secrets = ["*"]
}
trigger "api" "t" {          # ERROR: There is a second trigger "t"
  action  = "rotate"
  secrets = ["*"]
}
