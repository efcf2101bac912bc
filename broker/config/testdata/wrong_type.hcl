data_dir = ["a"]             # ERROR: "data_dir" is of the wrong type
backend "vault" "prod" {
  address      = { a = 1 }   # ERROR: "address" is of the wrong type
  environments = "prod"      # ERROR: "environments" is of the wrong type
  renew        = true        # ERROR: "renew" is no duration
  headers      = "x"         # ERROR: "headers" is an object
  keys         = "x"         # ERROR: "keys" is a list
  limits {
    max_concurrent = "many"  # ERROR: A number is required
  }
}
probe "http" "p" {
  url = "https://x"
  accepted {
    status = ["a"]           # ERROR: A number is required
  }
}
rotation_policy "r" {
  approval = "perhaps"       # ERROR: A bool is required
}
