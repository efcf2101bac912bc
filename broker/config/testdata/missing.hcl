backend "vault" "prod" {     # ERROR: The attribute "address" is missing
  auth "approle" {}          # ERROR: The attribute "role_id" is missing
}
probe "http" "p" {}          # ERROR: "url" is missing # ERROR: The block "accepted" is missing
storage "postgresql" {}      # ERROR: The attribute "url" is missing
secret "a" {}                # ERROR: The attribute "backend" is missing
consumer "c" {}              # ERROR: has neither a webhook nor an inbox
consumer "d" {
  webhook {}                 # ERROR: The attribute "url" is missing
}
trigger "api" "t" {}         # ERROR: "action" is missing # ERROR: "secrets" is missing
policy "p" {
  path "a" {}                # ERROR: The attribute "capabilities" is missing
}
