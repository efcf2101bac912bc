backend "local" "b" {}
issuer "set" "users" {
  server = "db:5432"
}
issuer "set" "same" {
  server = "db:5432"
}
issuer "set" "other" {
  server = "db:5433"
}
issuer "lease" "mine" {
  server    = "vault:8200"
  exclusive = true
}
issuer "lease" "also" {
  server = "vault:8200"
}
issuer "lease" "third" {
  server = "vault:8200"
}
rotation_policy "p" {
  overlap = "0s"
}
secret "a" {
  backend = "b"
  proof   = "none"
  issuer "users" { roles = ["x", "y"] }
}
secret "b" {
  backend = "b"
  proof   = "none"
  issuer "same" { roles = ["z", "y"] } # ERROR: The issuer "users", which leads to the same place, sets the account "y" for the secret "a" already. Two secrets would take it from each other: name another account; the first is at testdata/shared_servers.hcl:24
}
secret "c" {
  backend = "b"
  proof   = "none"
  issuer "other" { roles = ["x", "y"] }
}
secret "d" {
  backend = "b"
  proof   = "none"
  issuer "also" { role = "ro" }
}
secret "e" {
  backend = "b"
  proof   = "none"
  issuer "third" { role = "ro" }
}
secret "f" {
  backend = "b"
  proof   = "none"
  issuer "mine" { role = "ro" } # ERROR: The issuer "also", which leads to the same place, makes credentials as are asked for here for the secret "d" already. One of the two is exclusive: whatever is new there belongs to one secret alone
}
secret "g" {
  backend = "b"
  proof   = "none"
  issuer "mine" { role = "rw" }
}
secret "h" {
  backend = "b"
  proof   = "none"
  issuer "also" { role = "rw" } # ERROR: The issuer "mine", which leads to the same place, makes credentials as are asked for here for the secret "g" already
}
