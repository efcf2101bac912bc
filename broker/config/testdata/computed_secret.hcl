backend "vault" "a" {
  address = "https://x"
  token   = true ? env("TOKEN") : "x"  # ERROR: A secret cannot be computed
}
backend "vault" "b" {
  address = "https://x"
  token   = "${[env("TOKEN")][0]}"     # ERROR: A secret cannot be computed
}
backend "vault" "c" {
  address = "https://x"
  token   = base64decode("x")          # ERROR: There is no function "base64decode" here. Write env
}
backend "vault" "d" {
  address = "https://x"
  token   = env()                      # ERROR: env() takes one argument
}
backend "vault" "e" {
  address = "https://x"
  token   = env("TOKEN", "default")    # ERROR: env() takes one argument
}
backend "vault" "f" {
  address = "https://x"
  token   = secrets.token              # ERROR: A literal where a secret belongs
}
