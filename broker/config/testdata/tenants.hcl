backend "local" "apart" {}
backend "vault" "shared" {
  address = "https://vault.example.com"
}
backend "vault" "other" {
  address = "https://vault.example.org"
}
secret "app/key" {
  tenant  = "acme"
  backend = "shared"
}
secret "app/key" {           # ERROR: The backend "shared" holds a secret "app/key" of the tenant "acme" already. It does not keep tenants apart, so both would be one secret there: rename one, or name another backend; the first is at testdata/tenants.hcl:8.
  tenant  = "globex"
  backend = "shared"
}
secret "app/key" {
  tenant  = "initech"
  backend = "other"
}
secret "app/other" {
  tenant  = "acme"
  backend = "apart"
}
secret "app/other" {
  tenant  = "globex"
  backend = "apart"
}
