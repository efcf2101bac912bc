backend "vault" "whole" {
  address = "https://vault.example.com"
}
backend "vault" "part" { # a folder of the same vault
  address = "https://vault.example.com"
  mount   = "team"
}
backend "vault" "deep" {
  address = "https://vault.example.com"
  mount   = "team/app"
}
backend "vault" "other" {
  address = "https://vault.example.org"
  mount   = "team"
}
backend "local" "here" {}
secret "team/app/key" {
  backend = "whole"
}
secret "app/key" {           # ERROR: The backend "part" leads to the secret "team/app/key" of the tenant "default" under this name. Both would be one secret in the vault: rename one, or name another backend; the first is at testdata/folders.hcl:17.
  backend = "part"
}
secret "key" {
  tenant  = "acme"
  backend = "here"
  mirrors = [
    "deep",                  # ERROR: The backend "deep" leads to the secret "team/app/key" of the tenant "default" under this name
    "part",
    "whole",
    "other",
  ]
}
secret "app/other" {
  backend = "part"
}
secret "team/app/other" {    # ERROR: The backend "whole" leads to the secret "app/other" of the tenant "default" under this name
  backend = "whole"
}
secret "team/app" {
  backend = "part"
}
secret "teamapp/key" {
  backend = "whole"
}
