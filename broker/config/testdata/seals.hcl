seal "file" {}
seal "file" {           # ERROR: The same seal is there twice. The first is at testdata/seals.hcl:1.
  path = "data/seal.key"
}
seal "file" {
  path = "another.key"
}
seal "kms" {
  key   = "a"
  token = env("TOKEN")
}
seal "kms" {
  key = "b"
}
seal "kms" {            # ERROR: The first is at testdata/seals.hcl:12.
  key = "b"
}
seal "kms" {}           # ERROR: The attribute "key" is missing
seal "kms" {
  key   = "c"
  token = "literal"     # ERROR: A literal where a secret belongs
}
seal "kms" {
  key = ""              # ERROR: The key is empty
}
seal "kms" "name" {     # ERROR: A seal block has 1 labels, here are 2
  key = "d"
}
seal "km" {             # ERROR: There is no seal "km"
  key = "literal"
}
