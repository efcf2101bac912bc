backend "local" "a" {}
secret "x" {
  backend = "nowhere"
  labels  = { a = }          # ERROR: Invalid expression
}
