# Nobody knows what the policy says, so nobody says that it forbids.
backend "local" "b" {}
issuer "api_key" "i" {}
rotation_policy "web" {
  limits {
    plain_payload = "maybe" # ERROR: "plain_payload" is of the wrong type
  }
}
rotation_policy "misspelt" {
  limits {
    plain_paylod = true     # ERROR: Did you mean "plain_payload"?
  }
}
rotation_policy "twice" {
  limits {
    min_length = 8
  }
  limits {                  # ERROR: There is a second limits block
    plain_payload = true
  }
}
consumer "app" {
  webhook {
    url     = "https://example.com"
    payload = "plain"
  }
}
secret "web/a" {
  backend   = "b"
  proof     = "none"
  consumers = ["app"]
  issuer "i" {}
}
