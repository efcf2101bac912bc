backend "vault" "prod" {
  address = "https://vault.example.com"
}
backend "vault" "us" {
  address = "https://us.vault.example.com"
}
backend "vault" "us-again" {
  address = "https://us.vault.example.com"
}
backend "local" "embedded" {}
backend "local" "another" {}
backend "vault" "broken" {
  address     = "https://broken.example.com"
  drift_check = "often"     # ERROR: "drift_check" is no duration
}
issuer "api_key" "keys" {}
secret "a" {
  backend = "prod"
  proof   = "none"
  mirrors = [
    "us",
    "prod",                 # ERROR: The mirror "prod" is the secret's backend
    "us",                   # ERROR: The mirror "us" is listed twice
    "us-again",             # ERROR: The mirror "us-again" is the same vault as the backend "us"
    "broken",
  ]
  issuer "keys" {}
}
secret "b" {                # nobody rotates it: it may be mirrored all the same
  backend = "prod"
  mirrors = ["us"]
}
secret "c" {
  backend = "embedded"
  mirrors = ["another"]     # ERROR: The mirror "another" is the same vault as the backend "embedded"
}
secret "d" {
  backend = "prod"
  mirrors = "us"            # ERROR: "mirrors" is of the wrong type
}
secret "e" {
  backend = "embedded"
  mirror  = ["us"]          # ERROR: There is no attribute "mirror" here. Did you mean "mirrors"?
}
