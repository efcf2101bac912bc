backend "local" "b" {}
