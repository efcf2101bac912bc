data_dir {}                  # ERROR: It is an attribute
backend "local" "b" {
  limits = {}                # ERROR: It is a block: write limits { … }
}
