consumer "a" {
  webhook {
    url     = "https://example.com"
    payload = "sealed"                       # ERROR: A sealed payload needs the public key of its consumer
  }
}
consumer "b" {
  webhook {
    url             = "https://example.com"
    public_key_file = "recipient.jwk"        # ERROR: The public key is without effect: the payload is "reference"
  }
}
consumer "c" {
  webhook {
    url             = "https://example.com"
    payload         = "sealed"
    public_key_file = "missing.jwk"          # ERROR: no such file or directory
  }
}
consumer "d" {
  webhook {
    url             = "https://example.com"
    payload         = "sealed"
    public_key_file = "recipient_private.txt" # ERROR: key 1 is private
  }
}
consumer "e" {
  webhook {
    url             = "https://example.com"
    payload         = "sealed"
    public_key_file = "token.txt"            # ERROR: holds no public key
  }
}
consumer "f" {
  webhook {
    url             = "http://example.com"
    payload         = "sealed"
    public_key_file = "recipient.jwk"
  }
}
consumer "g" {
  webhook {
    url       = "https://example.com"
    signature = "rsa"                        # ERROR: There is no signature "rsa". Write "ed25519", the default, or "hmac".
  }
}
consumer "h" {
  webhook {
    url            = "https://example.com"
    signature      = "ed25519"               # ERROR: The signature is "ed25519", but the signing secret is of "hmac"
    signing_secret = env("WHSEC")
  }
}
consumer "i" {
  webhook {
    url            = "https://example.com"
    signature      = "hmac"                  # ERROR: The signature is "hmac", but the signing secret is of "ed25519"
    signing_secret = env("WHSK")
  }
}
consumer "j" {
  webhook {
    url                 = "https://example.com"
    signing_secret      = env("WHSEC")
    signing_secret_file = "signing_keys.txt" # ERROR: There are two signing secrets
  }
}
consumer "k" {
  webhook {
    url                 = "https://example.com"
    signing_secret_file = "missing.whsec"    # ERROR: The signing secret cannot be read: no such file or directory
  }
}
consumer "l" {
  webhook {
    url                 = "https://example.com"
    signing_secret_file = "token.txt"        # ERROR: The signing secret in line 1 of the file cannot be used. A signing secret begins with whsec_ or whsk_
  }
}
consumer "n" {
  webhook {
    url                 = "https://example.com"
    signing_secret_file = "signing_keys_torn.txt" # ERROR: The signing secret in line 3 of the file cannot be used
  }
}
consumer "o" {
  webhook {
    url                 = "https://example.com"
    signing_secret_file = "empty.txt"        # ERROR: The file holds no signing secret
  }
}
consumer "m" {
  webhook {
    url                 = "https://example.com"
    signature           = "hmac"
    signing_secret_file = "signing_keys.txt"
  }
}
