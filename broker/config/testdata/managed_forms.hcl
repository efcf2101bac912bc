backend "local" "here" {}
secret "a" {
  backend = "here"
  labels  = { x = secret("a").key }         # ERROR: secret() cannot be used here
}
backend "vault" "forms" {
  address = secret("a").key                 # ERROR: secret() cannot be used here. It reads secrets, and "address" is none
  token   = secret("a")                     # ERROR: secret() gives a whole secret, of which one field is wanted here. Write secret("NAME").FIELD
  keys    = [
    secret("a").b.c,                        # ERROR: secret() is of one field of one secret
    secret("a")[0],                         # ERROR: secret() is of one field of one secret
    secret().b,                             # ERROR: secret() is of one field
    secret("a", "b").c,                     # ERROR: secret() is of one field
    secret(env("TOKEN")).c,                 # ERROR: secret() is of one field
    secret("${env("TOKEN")}").c,            # ERROR: secret() is of one field
    env(secret("a").key),                   # ERROR: secret() cannot name what env() reads
    file("x/${secret("a").key}"),           # ERROR: secret() cannot name what file() reads
    env("TOKEN").key,                       # ERROR: A secret cannot be computed
    "literal",                              # ERROR: or secret("NAME").FIELD of a secret that keybroker manages
    true ? secret("a").key : "x",           # ERROR: A secret cannot be computed
  ]
}
storage "postgresql" {
  url = secret("a").key                     # ERROR: secret() cannot be used here. Only what backends, issuers and probes log in with can be a secret that keybroker manages. Write env("NAME") or file("path")
}
seal "kms" {
  key   = "k"
  token = "x-${secret("a").key}"            # ERROR: secret() cannot be used here. Only what
}
consumer "c" {
  webhook {
    url            = "https://example.com"
    signing_secret = secret("a").key        # ERROR: secret() cannot be used here. Only what
  }
}
notifier "webhook" "n" {
  url   = "https://example.com"
  token = secret("a").key                   # ERROR: secret() cannot be used here. Only what
}
audit "splunk_hec" {
  url   = "https://example.com"
  token = secret("a").key                   # ERROR: secret() cannot be used here. Only what
}
auth "mtls" "m" {
  ca_file = secret("a").key                 # ERROR: secret() cannot be used here. It reads secrets
}
listener "tcp" {
  tls_key_file = secret("a").key            # ERROR: secret() cannot be used here. It reads secrets
}
