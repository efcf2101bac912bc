backend "vault" "prod" {
  address = "https://vault.example.com"
}
backend "weak" "us" {
  path     = "us"
  compares = true
}
issuer "api_key" "keys" {}
secret "a@b" {               # ERROR: The backend "us" has no place for this name: the name "a@b" has an @ in it. Choose another one, or name another backend
  backend = "us"
}
secret "a@c" {
  backend = "prod"
  mirrors = ["us"]           # ERROR: The backend "us" has no place for this name: the name "a@c" has an @ in it
}
secret "a@d" {
  backend = "prod"
}
secret "old/a" {             # WARNING: The backend "us" makes no secret of this name: the name "old/a" is an old one. Choose a new one, unless the secret is there already
  backend = "us"
  proof   = "none"
  issuer "keys" {}
}
secret "old/b" {
  backend = "prod"
  mirrors = ["us"]           # ERROR: The mirror "us" makes no secret of this name: the name "old/b" is an old one. Choose a new one
}
secret "old/c" {             # it is there, and only served
  backend = "us"
}
secret "@ d" {               # ERROR: "@ d"
  backend = "us"
}
