backend "vault" "prod" {
  address = "https://vault.example.com"
  tenant  = "acme"
}
backend "local" "here" {}

trigger "api" "a" {
  action  = "explode"        # ERROR: There is no action "explode". Known are rotate, emergency.
  secrets = ["*"]
}
trigger "api" "b" {
  action  = "emergency"
  secrets = ["a/*", "/b"]    # ERROR: begins with a slash
}
trigger "api" "nowhere" {    # ERROR: The attribute "secrets" is missing
  action = "rotate"
}
trigger "api" "matched" {
  action = "rotate"
  match {
    paths = ["/a", "b/*"]    # ERROR: begins with a slash
  }
}
trigger "webhook" "unsigned" { # ERROR: The attribute "signing_secret" is missing
  action = "rotate"
}
trigger "webhook" "literal" {
  action         = "rotate"
  signing_secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" # ERROR: A literal where a secret belongs
}
trigger "webhook" "managed" {
  action         = "rotate"
  signing_secret = secret("a").key # ERROR: secret() cannot be used here
}
trigger "webhook" "bounds" {
  action         = "emergency"
  signing_secret = env("TOKEN")
  max_secrets    = 0         # ERROR: acts on 1 to 10000 secrets within its cooldown, not on 0
  cooldown       = "1ms"     # ERROR: A cooldown is from 1s to 7 days long
  match {                    # ERROR: The match is empty
  }
}
trigger "webhook" "more" {
  action         = "emergency"
  signing_secret = env("TOKEN")
  max_secret     = 3         # ERROR: There is no attribute "max_secret" here. Did you mean "max_secrets"?
  cooldown       = 10        # ERROR: "cooldown" is no duration
  match {
    label = { a = "b" }      # ERROR: There is no attribute "label" here
  }
}
trigger "webhook" "elsewhere" {
  action         = "rotate"
  signing_secret = env("TOKEN")
  on             = ["drift"] # ERROR: There is no attribute "on" here
}
trigger "queue" "misspelt" {
  action  = "rotate"
  backend = "pord"           # ERROR: There is no backend "pord". Did you mean "prod"?
}
trigger "queue" "other_type" {
  action  = "rotate"
  backend = "here"           # ERROR: is of the type "local", and these events are about one of the type "vault"
}
trigger "queue" "other_tenant" {
  action  = "rotate"
  backend = "prod"           # ERROR: The backend "prod" belongs to the tenant "acme", this trigger to no tenant
}
trigger "internal" "blind" { # ERROR: The trigger notices nothing
  action = "rotate"
}
trigger "internal" "kinds" {
  action = "emergency"
  on = [
    "resurected",            # ERROR: Did you mean "resurrected"?
    "seal_down",             # ERROR: is of no single secret that a trigger could act on
    "drift",
    "drift",                 # ERROR: The kind "drift" is listed twice
  ]
}
trigger "internal" "empty" {
  action = "rotate"
  threshold {}               # ERROR: The threshold is empty
}
trigger "internal" "always" {
  action = "rotate"
  threshold {
    reads_per_minute  = 0    # ERROR: reads_per_minute is 0, which is reached all the time
    denied_per_minute = "x"  # ERROR: "denied_per_minute" is of the wrong type
  }
}
