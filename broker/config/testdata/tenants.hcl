backend "local" "apart" {}
backend "vault" "shared" {
  address = "https://vault.example.com"
}
backend "vault" "other" {
  address = "https://vault.example.org"
}
backend "weak" "third" {
  path = "third"
}
backend "weak" "apart-too" {
  path = "apart"
}
secret "app/key" {
  tenant  = "acme"
  backend = "shared"
}
secret "app/key" {           # ERROR: The backend "shared" holds a secret "app/key" of the tenant "acme" already. It does not keep tenants apart, so both would be one secret there: rename one, or name another backend; the first is at testdata/tenants.hcl:14.
  tenant  = "globex"
  backend = "shared"
}
secret "app/key" {
  tenant  = "initech"
  backend = "other"
}
secret "app/key" {
  tenant  = "hooli"
  backend = "apart"
  mirrors = [
    "apart-too",
    "other",                 # ERROR: The backend "other" holds a secret "app/key" of the tenant "initech" already. It does not keep tenants apart
    "third",
  ]
}
secret "app/key" {           # ERROR: The backend "third" holds a secret "app/key" of the tenant "hooli" already
  tenant  = "umbrella"
  backend = "third"
}
backend "vault" "shared-too" { # another way to the same vault
  address = "https://vault.example.com"
}
secret "app/key" {           # ERROR: The backend "shared-too" holds a secret "app/key" of the tenant "acme" already
  tenant  = "stark"
  backend = "shared-too"
}
secret "app/other" {
  tenant  = "acme"
  backend = "apart"
}
secret "app/other" {
  tenant  = "globex"
  backend = "apart"
}
