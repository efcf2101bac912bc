backend "vault" "prod" {
  address = "https://vault.example.com"
}
backend "weak" "value" {
  path     = "value"
  field    = "value"
  compares = true
}
backend "weak" "key" {
  path           = "key"
  field          = "key"
  max_value_size = 64
  compares       = true
}
backend "weak" "bytes" {
  path     = "bytes"
  field    = "value"
  compares = true
  binary   = true
}
backend "weak" "object" {
  path           = "object"
  max_value_size = 64
  compares       = true
}
issuer "api_key" "keys" {}
issuer "http" "pairs" {
  revocation_budget = "1m"
  fields            = ["password", "username"]
}
issuer "exec" "program" {}
issuer "http" "silent" {
  revocation_budget = "1m"
}
issuer "http" "broken" {
  revocation_budget = "1x"  # ERROR: is no duration
}
rotation_policy "long" {
  match {
    paths = ["long/*"]
  }
  key {
    length = 65             # ERROR: A key of 65 characters does not fit into the backend "key", which takes values of 64 bytes
  }
}
secret "a" {
  backend = "value"         # ERROR: The backend "value" keeps the one field "value", but the issuer "keys" gives "key". Say in its block that the field is "key", or choose a layout of several fields
  mirrors = ["prod", "key"]
  proof   = "none"
  issuer "keys" {}
}
secret "b" {
  backend = "key"
  mirrors = [
    "value",                # ERROR: The backend "value" keeps the one field "value", but the issuer "keys" gives "key"
  ]
  proof = "none"
  issuer "keys" {}
}
secret "c" {
  backend = "prod"
  mirrors = ["key"]         # ERROR: The backend "key" keeps the one field "key", but the issuer "pairs" gives password, username. Choose a layout of several fields in its block, or name another backend
  proof   = "none"
  issuer "pairs" {
    scopes = []
  }
}
secret "d" {
  backend = "prod"
  mirrors = ["key"]         # WARNING: The backend "key" keeps the one field "key": a value with other fields cannot be mirrored there. Choose a layout
  proof   = "none"
  issuer "silent" {
    scopes = []
  }
}
secret "e" {                # imported: what it has is known by nobody
  backend = "prod"
  mirrors = ["key"]         # WARNING: a value with other fields cannot be mirrored there
}
secret "f" {
  backend = "value"
  mirrors = ["bytes", "prod"]
}
secret "g" {
  backend = "key"
  mirrors = ["bytes"]       # ERROR: The backend "bytes" keeps the one field "value", but the backend "key" gives "key"
}
secret "h" {
  backend = "bytes"
  mirrors = ["prod"]        # WARNING: A value that is not UTF-8 text cannot be mirrored to the backend "prod"
}
secret "i" {
  backend = "key"
  proof   = "none"
  issuer "broken" {}
}
secret "j" {
  backend = "prod"
  mirrors = ["value"]
  proof   = "none"
  issuer "broken" {}
}
secret "long/a" {
  backend = "prod"
  mirrors = ["key"]
  proof   = "none"
  issuer "keys" {}
}
secret "k" {
  backend = "key"
  proof   = "none"
  issuer "keys" {}
  rotation {
    key {
      length = 100          # ERROR: A key of 100 characters does not fit
    }
  }
}
secret "l" {
  backend = "object"
  proof   = "none"
  issuer "keys" {}
  rotation {
    key {
      length = 55           # ERROR: A key of 55 characters does not fit into the backend "object", which takes values of 64 bytes, 10 of them around the key
    }
  }
}
secret "m" {
  backend = "object"
  proof   = "none"
  issuer "keys" {}
  rotation {
    key {
      length = 54
    }
  }
}
secret "n" {
  backend = "object"
  proof   = "none"
  issuer "program" {}
  rotation {
    key {
      length = 60           # ERROR: A key of 60 characters does not fit into the backend "object", which takes values of 64 bytes, 7 of them around the key
    }
  }
}
secret "o" {
  backend = "object"
  proof   = "none"
  issuer "silent" {
    scopes = []
  }
  rotation {
    key {                   # WARNING: The key settings are without effect: the issuer "silent" says itself what its credentials are like
      length = 60
    }
  }
}
