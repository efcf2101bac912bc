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
    payload = "seald"                  # ERROR: Did you mean "sealed"?
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
consumer "i" {                         # ERROR: The consumer "i" has neither a webhook nor an inbox
}
consumer "j" {
  role = "collector"
  inbox {}
  webhook {                            # ERROR: has a webhook and an inbox
    url = "https://example.com"
  }
}
consumer "k" {
  inbox {}                             # ERROR: no role that could collect from it
}
consumer "l" {
  role      = "collector"
  instances = 0                        # ERROR: 0 instances could never say that they use a version
  events = [
    "secret.rotated",
    "secret.retird",                   # ERROR: Did you mean "secret.retired"?
    "secret.rotated",                  # ERROR: The event "secret.rotated" is listed twice
  ]
  inbox {
    concurrency = 2                    # ERROR: There is no attribute "concurrency" here
  }
}
consumer "m" {
  webhook {
    url         = "https://example.com"
    concurrency = 0                    # ERROR: nothing would ever be sent
  }
}
consumer "n" {
  webhook {
    url        = "https://example.com"
    concurency = 2                     # ERROR: Did you mean "concurrency"?
    payload    = "sealed"
  }
}
consumer "o" {
  events    = ["secret.proven_dead"]
  instances = 3
  role      = "collector"
  inbox {
    payload   = "reference"
    signature = "hmac"
  }
}
role "collector" {
  tenant   = "default"
  policies = ["none"]
}
policy "none" {
  path "nothing" {
    capabilities = ["read"]
  }
}
