backend "local" "b" {}
issuer "api_key" "i" {}
rotation_policy "everything" {
  match {                      # WARNING: The match is empty: the policy is for every secret
  }
}
rotation_policy "default" {
  overlap = "2h"
}
rotation_policy "nothing" {
  match {
    paths  = [
      "web/*",
      "db/+",                  # WARNING: The path "db/+" matches no secret of the configuration
    ]
    labels = { tier = "gold" } # WARNING: The labels match no secret of the configuration
  }
}
trigger "api" "ci" {
  action  = "rotate"
  secrets = ["web/*", "wep/a"] # WARNING: matches no secret of the configuration. Did you mean "web/a"?
}
secret "web/a" {
  backend = "b"
  proof   = "none"
  labels  = { tier = "silver" }
  issuer "i" {}
}
secret "web/b" {               # WARNING: The secret has no issuer: nobody can rotate or fill it
  backend = "b"
}
