backend "vault" "prod" {
  address = "https://x"
  token   = "hvs.literal"    # ERROR: A literal where a secret belongs: "token" is secret. Write env("NAME") or file("path")
  auth "approle" {
    role_id = "literal"      # ERROR: A literal where a secret belongs: "role_id"
  }
  headers = {
    Authorization = "x"      # ERROR: A literal where a secret belongs
    Other         = env("TOKEN")
  }
  keys = [env("TOKEN"), 12]  # ERROR: A literal where a secret belongs
}
storage "postgresql" {
  url = "postgres://u:p@h/d" # ERROR: A literal where a secret belongs
}
consumer "c" {
  webhook {
    url            = "https://example.com"
    signing_secret = "whsec_x" # ERROR: A literal where a secret belongs
  }
}
probe "http" "p" {
  url = "https://${field.key}.example.com"
  auth "bearer" {
    token = "literal"        # ERROR: A literal where a secret belongs
  }
  accepted {
    status = [200]
  }
}
