backend "local" "a b" {}     # ERROR: "a b" is no name for a backend
backend "local" "ok" {}
secret "a//b" {              # ERROR: "a//b" is no name for a secret
  backend = "ok"
}
secret "sys/x" {             # ERROR: Names below sys/ are reserved.
  backend = "ok"
}
secret "t" {
  tenant  = "a:b"            # ERROR: "a:b" is no name for a tenant
  backend = "ok"
}
