consumer "a" {
  webhook {
    url     = "http://example.com"     # ERROR: A plain payload goes over https only
    payload = "plain"
  }
}
consumer "b" {
  webhook {
    url     = "http://127.0.0.1:9000"  # ERROR: set allow_private_network = true
    payload = "plain"
  }
}
consumer "c" {
  webhook {
    url                   = "http://169.254.169.254/"  # ERROR: a cloud metadata service
    allow_private_network = true
  }
}
consumer "d" {
  webhook {
    url     = "ftp://example.com"      # ERROR: must begin with https://
  }
}
consumer "e" {
  webhook {
    url     = "https://example.com"
    payload = "sealed"                 # ERROR: Known are reference, plain.
  }
}
consumer "f" {
  webhook {
    url            = "https://example.com"
    signing_secret = env("TOKEN")      # ERROR: A signing secret begins with whsec_
  }
}
consumer "g" {
  webhook {
    url = "https://user:pass@example.com"  # ERROR: the url holds credentials
  }
}
consumer "h" {
  webhook {
    url                   = "http://localhost:9000"
    payload               = "plain"
    allow_private_network = true
  }
}
