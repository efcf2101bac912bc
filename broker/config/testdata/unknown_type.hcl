backend "valut" "prod" {     # ERROR: There is no backend "valut". Did you mean "vault"?
  address = "https://x"
}
issuer "carrier_pigeon" "p" {}  # ERROR: Known are api_key, exec, http, lease, set.
probe "telepathy" "t" {}     # ERROR: Known is only http.
storage "mysql" {            # ERROR: Known are sqlite, postgresql.
  url = "x"
}
seal "awskms" {              # ERROR: There is no seal "awskms". Known are kms, file
  region = "eu-central-1"
}
listener "udp" {}            # ERROR: Did you mean "tcp"?
trigger "webhooks" "siem" {  # ERROR: There is no trigger "webhooks". Did you mean "webhook"?
  action  = "rotate"
  secrets = ["*"]
  match {                    # ERROR: The match is empty
  }
}
