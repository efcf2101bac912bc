backend "vault" "prod" {
  address = "https://vault.example.com"
}
backend "vault" "unwatched" {
  address     = "https://unwatched.vault.example.com"
  drift_check = "0s"
}
issuer "api_key" "keys" {}
probe "http" "web" {
  url = "https://example.com"
  accepted {
    status = [200]
  }
}
secret "a" {
  backend  = "prod"
  on_drift = "restor"       # ERROR: "restor" is no value of on_drift. Did you mean "restore"?
}
secret "b" {
  backend  = "prod"
  on_drift = "adopt"        # ERROR: The secret has no probe: nothing could tell whether a value that was found works. Name a probe
  proof    = "none"
  issuer "keys" {}
}
secret "c" {
  backend  = "prod"
  on_drift = "adopt"
  prob     = "web"          # ERROR: There is no attribute "prob"
}
secret "d" {
  backend  = "prod"
  probe    = "web"
  on_drift = "adopt"
  issuer "keys" {}
}
secret "e" {
  backend  = "prod"
  mirrors  = ["unwatched"]
  on_drift = "restore"      # WARNING: Nobody looks for drift in the backend "unwatched": it has drift_check = "0s"
}
secret "f" {
  backend = "unwatched"
}
