backend "vault" "prod" {
  address = "https://vault.example.com"
}
backend "vault" "other-team" {
  address   = "https://other.vault.example.com"
  read_only = true
}
backend "weak" "old" {
  path = "a"
  old  = true
}
backend "weak" "doubtful" {
  path      = "b"
  read_only = "perhaps"     # ERROR: "read_only" is of the wrong type
}
issuer "api_key" "keys" {}
secret "a" {
  backend = "other-team"    # ERROR: The backend "other-team" is read-only, and the secret rotates: no new version could be published there. Remove read_only from its block
  proof   = "none"
  issuer "keys" {}
}
secret "b" {
  backend = "old"           # ERROR: The backend "old" is read-only, and the secret rotates: no new version could be published there. Name another one
  proof   = "none"
  issuer "keys" {}
}
secret "c" {
  backend  = "other-team"
  mirrors  = ["prod"]
  on_drift = "restore"      # ERROR: The backend "other-team" is read-only: on_drift = "restore" would write to it
}
secret "d" {
  backend = "prod"
  mirrors = [
    "other-team",           # ERROR: The mirror "other-team" is read-only: nothing could be mirrored there
    "doubtful",
  ]
}
secret "e" {
  backend = "doubtful"
  proof   = "none"
  issuer "keys" {}
}
