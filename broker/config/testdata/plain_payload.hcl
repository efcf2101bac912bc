# Who may be sent the credential itself: at least one policy of the secret says so, and none says no.
backend "local" "b" {}
issuer "api_key" "i" {}
rotation_policy "company" {
  overlap = "2h"
}
rotation_policy "web" {
  match {
    paths = ["web/*"]
  }
  limits {
    plain_payload = true
  }
}
rotation_policy "risky" {
  match {
    labels = { risk = "high" }
  }
  limits {
    plain_payload = false
  }
}
consumer "app" {
  webhook {
    url     = "https://example.com"
    payload = "plain"
  }
}
consumer "other" {
  webhook {
    url = "https://example.com"
  }
}
secret "web/a" {
  backend   = "b"
  proof     = "none"
  consumers = ["app", "other"]
  issuer "i" {}
}
secret "web/b" {
  backend   = "b"
  proof     = "none"
  labels    = { risk = "high" }
  consumers = ["other", "app"] # ERROR: The consumer "app" is sent the credential itself, which the rotation policy "risky" forbids. See testdata/plain_payload.hcl:26: payload = "plain" and testdata/plain_payload.hcl:20: plain_payload = false.
  issuer "i" {}
}
secret "db/a" {
  backend   = "b"
  proof     = "none"
  consumers = ["app"]          # ERROR: The consumer "app" is sent the credential itself, which no rotation policy of the secret allows. See testdata/plain_payload.hcl:26: payload = "plain". Let the consumer have payload = "sealed" or "reference", or write limits { plain_payload = true }
  issuer "i" {}
}
secret "db/static" {
  backend   = "b"
  consumers = ["app"]          # ERROR: which no rotation policy of the secret allows
}
