backend "local" "prod" {
  environments = ["production"]
}
secret "a" {
  backend = "prod"           # ERROR: does not hold secrets of the environment "staging"
  labels  = { environment = "staging" }
}
backend "vault" "test" {
  address      = "https://vault.example.com"
  environments = ["test", "staging"]
}
secret "b" {
  backend = "prod"
  mirrors = ["test"]         # ERROR: The backend "test" does not hold secrets of the environment "production". It is for test, staging
  labels  = { environment = "production" }
}
