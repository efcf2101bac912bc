backend "vault" "v" {
  address = "http://x"       # ERROR: Vault is spoken to over https. Begin with https://.
}
issuer "http" "i" {          # ERROR: No budget
}
secret "a" {
  backend = "v"
  issuer "i" {}
  proof = "none"
}
