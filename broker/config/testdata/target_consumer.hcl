# Consumers with all that there is, as platform teams write it.
backend "local" "b" {}
issuer "api_key" "i" {}
rotation_policy "high-risk" {
  match {
    labels = { risk = "high" }
  }
  schedule      = "0 3 1 * *"
  overlap       = "24h"
  notice_before = "72h"
  acknowledgement {
    require    = "fetched"
    timeout    = "24h"
    on_timeout = "hold"
  }
}
secret "mail/sender" {
  backend   = "b"
  tenant    = "acme"
  proof     = "none"
  consumers = ["behind-a-firewall", "newsletter"]
  labels    = { risk = "high" }
  issuer "i" {}
  rotation {
    acknowledgement {
      require = "applied"
    }
  }
}
secret "mail/reader" {
  backend   = "b"
  tenant    = "acme"
  proof     = "none"
  consumers = ["behind-a-firewall"]
  labels    = { risk = "high" }
  issuer "i" {}
}
consumer "newsletter" {
  tenant    = "acme"
  role      = "newsletter-app"
  instances = 3
  events    = ["secret.rotating", "secret.retiring", "secret.proven_dead"]
  webhook {
    url             = "https://newsletter.example.com/hooks/keybroker"
    payload         = "sealed"
    public_key_file = "recipient.jwk"
    pins = [
      "sha256//AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
      "sha256//AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    ]
    concurrency = 4
  }
}
consumer "behind-a-firewall" {
  tenant = "acme"
  role   = "firewalled-app"
  inbox {}
}
policy "mail-reader" {
  path "mail/*" {
    capabilities = ["read"]
  }
}
role "firewalled-app" {
  tenant   = "acme"
  policies = ["mail-reader"]
}
role "newsletter-app" {
  tenant   = "acme"
  policies = ["mail-reader"]
}
