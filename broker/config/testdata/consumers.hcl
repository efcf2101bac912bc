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
consumer "p" {
  webhook {
    url = "https://example.com/hook?accessToken=abc"  # ERROR: the url holds credentials, it seems, in the parameter "accessToken" of its query
  }
}
consumer "q" {
  webhook {
    url = "https://example.com/hook?tenant=acme&monkey=1"
  }
}
consumer "r" {
  webhook {
    url = "https://example.com/hook#here"  # ERROR: a fragment, which is sent to nobody
  }
}
consumer "s" {
  instances = 3                        # ERROR: The consumer "s" has 3 instances, but no role, so only the one that is called could say that it uses a version. See testdata/consumers.hcl:109: consumer "s". Give it a role
  webhook {
    url         = "https://example.com"
    concurrency = 257                  # ERROR: A concurrency of 257 is more than a node opens connections to one consumer. Write 1 to 256
  }
}
consumer "t" {
  role      = "collector"
  instances = 1001                     # ERROR: 1001 instances could never say that they use a version. Write how many there are, 1 to 1000
  webhook {
    url         = "https://example.com"
    concurrency = 256
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
