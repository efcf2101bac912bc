storage "postgresql" {
  url = env("TOKEN")
}
backend "weak" "primary" {  # WARNING: The backend "primary" cannot guard its writes, and secrets are rotated in it. What somebody else writes
  path = "a"
}
backend "weak" "mirror" {   # WARNING: The backend "mirror" cannot guard its writes, and several nodes may write to it
  path = "b"
}
backend "weak" "served" {
  path = "c"
}
backend "weak" "unused" {
  path = "d"
}
issuer "api_key" "keys" {}
secret "a" {
  backend = "primary"
  mirrors = ["mirror"]
  proof   = "none"
  issuer "keys" {}
}
secret "b" {                # WARNING: The secret has no issuer
  backend = "served"
  mirrors = ["mirror"]
}
