backends "local" "a" {}      # ERROR: Did you mean "backend"?
backend "local" "b" {
  limit {                    # ERROR: Did you mean "limits"?
    timeout = "1s"
  }
}
