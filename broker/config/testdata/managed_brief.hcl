backend "local" "here" {}
issuer "api_key" "keys" {}
backend "vault" "prod" {
  address = "https://x"
  token   = secret("infra/vault").key # WARNING: The overlap of "infra/vault" is 5s: backend "prod" may be refused until it has taken up a new version, which can take 10s. Give it an overlap of a minute
}
secret "infra/vault" {
  backend = "here"
  issuer "keys" {}
  proof = "none"
  rotation {
    overlap = "5s"
  }
}
