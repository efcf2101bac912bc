backend "local" "embedded" {}
backend "weak" "mirror" {   # one node: its drift check is enough
  path = "b"
}
issuer "api_key" "keys" {}
secret "a" {
  backend = "embedded"
  mirrors = ["mirror"]
  proof   = "none"
  issuer "keys" {}
}
