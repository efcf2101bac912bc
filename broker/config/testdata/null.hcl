data_dir = null
backend "vault" "prod" {
  address = null             # ERROR: The attribute "address" is null
  token   = null
}
