data_dir = "a"
backend "local" "b" {}
seal "file" {}
secret "x" {
  backend = "c"
}
