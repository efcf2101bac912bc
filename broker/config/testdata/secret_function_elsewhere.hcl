data_dir = env("TOKEN")      # ERROR: env() cannot be used here
backend "vault" "prod" {
  address = file("x")        # ERROR: "address" is none: it is shown
}
secret "a" {
  backend = "prod"
  issuer "i" {
    scopes = [env("TOKEN")]  # ERROR: env() cannot be used here
  }
  proof = "none"
}
issuer "http" "i" {
  revocation_budget = "1m"
}
