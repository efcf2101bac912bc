consumer "a" {
  webhook {
    url = "https://example.com"
    pins = [
      "sha256//AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
      "sha256//AAEC",                                          # ERROR: "sha256//AAEC" is no pin
      "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",          # ERROR: is no pin: write sha256//
      "sha256//AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",  # ERROR: The pin is listed twice
    ]
  }
}
consumer "b" {
  webhook {
    url  = "https://example.com"
    pins = ["sha256//AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="] # WARNING: There is one pin alone
  }
}
consumer "c" {
  webhook {
    url  = "https://example.com"
    pins = []                                                  # ERROR: The list of pins is empty
  }
}
consumer "d" {
  webhook {
    url              = "https://example.com"
    client_cert_file = "client.crt"                            # ERROR: client_cert_file is without effect alone
  }
}
consumer "e" {
  webhook {
    url             = "https://example.com"
    client_key_file = "client.key"                             # ERROR: client_key_file is without effect alone
  }
}
consumer "f" {
  webhook {
    url              = "https://example.com"
    client_cert_file = "missing.crt"                           # ERROR: The client certificate and its key cannot be used
    client_key_file  = "missing.key"
  }
}
consumer "g" {
  webhook {
    url     = "https://example.com"
    ca_file = "missing.crt"                                    # ERROR: no such file or directory
  }
}
consumer "h" {
  webhook {
    url             = "https://example.com"
    ca_file         = "token.txt"                              # ERROR: The certificates of ca_file cannot be used
    tls_min_version = "1.1"                                    # ERROR: There is no tls_min_version "1.1" here
  }
}
consumer "i" {
  webhook {
    url                   = "http://127.0.0.1:9000"
    allow_private_network = true
    tls_min_version       = "1.2"                              # ERROR: tls_min_version is without effect: the url is http
    ca_file               = "missing.crt"                      # ERROR: ca_file is without effect: the url is http
  }
}
consumer "j" {
  webhook {
    url             = "https://example.com"
    tls_min_version = "1.2"
    pins = [
      "sha256//AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
      "sha256//AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    ]
  }
}
