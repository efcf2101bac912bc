backend "vault" "a" {
  address = "https://x"
  token   = file("no-such-file")  # ERROR: The file cannot be used: no such file or directory
}
backend "vault" "b" {
  address = "https://x"
  token   = file("multi")         # ERROR: it is no regular file
}
backend "vault" "c" {
  address = "https://x"
  token   = env("NOT_SET")        # ERROR: The environment variable cannot be used: it is not set
}
backend "vault" "d" {
  address = "https://x"
  token   = env("EMPTY")          # ERROR: it is empty
}
backend "vault" "e" {
  address = "https://x"
  token   = file("empty.txt")     # ERROR: it is empty
}
backend "vault" "f" {
  address = "https://x"
  token   = file("${env("TOKEN")}/x")  # ERROR: no such file or directory
}
