backend "local" "here" {}
issuer "api_key" "keys" {}
backend "vault" "self" {
  address = "https://a"
  token   = secret("kept/in/self").key      # ERROR: The backend "self" needs itself. It takes a credential from secret "kept/in/self" (testdata/managed_cycles.hcl:5), which is kept in backend "self" (testdata/managed_cycles.hcl:8). So it could neither
}
secret "kept/in/self" {
  backend = "self"
  issuer "keys" {}
  proof = "none"
}
backend "vault" "a" {
  address = "https://b"
  token   = secret("a/admin").key           # ERROR: The backend "a" needs itself. It takes a credential from secret "a/admin" (testdata/managed_cycles.hcl:14), which is tried by probe "b" (testdata/managed_cycles.hcl:25), which takes a credential from secret "b/admin" (testdata/managed_cycles.hcl:18), which is mirrored to backend "a" (testdata/managed_cycles.hcl:30).
}
probe "http" "b" {
  url    = "https://x"
  canary = { key = secret("b/admin").key }
  accepted {
    status = [200]
  }
}
secret "a/admin" {
  backend = "here"
  probe   = "b"
  issuer "keys" {}
}
secret "b/admin" {
  backend = "here"
  mirrors = ["a"]
  issuer "keys" {}
  proof = "none"
}
