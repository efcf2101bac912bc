backend "local" "prod" {
  environments = ["production"]
}
secret "a" {
  backend = "prod"           # ERROR: does not hold secrets of the environment "staging"
  labels  = { environment = "staging" }
}
secret "b" {
  backend = "prod"
  labels  = { environment = "production" }
}
