data_dir = "b"               # ERROR: It is set at testdata/multi/a.hcl:1 already.
backend "local" "b" {}       # ERROR: the first is at testdata/multi/a.hcl:2.
backend "local" "c" {}
seal "file" {}               # ERROR: The first is at testdata/multi/a.hcl:3.
secret "x" {                 # ERROR: A tenant's secrets have different names; the first is at testdata/multi/a.hcl:4.
  backend = "c"
}
secret "x" {
  tenant  = "acme"
  backend = "c"
}
