backend "local" "b" {}
issuer "api_key" "i" {}
rotation_policy "waits" {
  acknowledgement {
    require = "fetched" # WARNING: The consumer "given" is given the credential with the message and need not fetch it
  }
  limits {
    plain_payload = true
  }
}
consumer "reads" {
  role = "reader"
  webhook {
    url = "https://example.com"
  }
}
consumer "given" {
  role = "given"
  webhook {
    url     = "https://example.com"
    payload = "plain"
  }
}
consumer "anybody" {
  webhook {
    url = "https://example.com"
  }
}
role "reader" {
  tenant   = "default"
  policies = ["reader"]
}
role "given" {
  tenant   = "default"
  policies = ["reader"]
}
policy "reader" {
  path "*" {
    capabilities = ["read"]
  }
}
secret "a" {
  backend   = "b"
  proof     = "none"
  consumers = ["reads", "given"]
  issuer "i" {}
}
secret "b" {
  backend   = "b"
  proof     = "none"
  consumers = ["reads", "anybody"] # ERROR: The consumer "anybody" has no role, so nobody could see that it has fetched, as acknowledgement.require asks. See testdata/fetched.hcl:24: consumer "anybody" and testdata/fetched.hcl:5: "fetched". Give it a role, or ask for "received" or "applied".
  issuer "i" {}
}
secret "c" {
  backend   = "b"
  proof     = "none"
  consumers = ["anybody"]
  issuer "i" {}
  rotation {
    acknowledgement {
      require = "received"
    }
  }
}
secret "d" {
  backend   = "b"
  proof     = "none"
  consumers = ["anybody"]
  issuer "i" {}
  rotation {
    acknowledgement {
      require = "read" # ERROR: "read" is no value of acknowledgement.require. It is one of none, received, fetched, applied
    }
  }
}
