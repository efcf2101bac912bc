offline_kit {
  path            = "kit.age"
  recipients      = ["AGE-SECRET-KEY-1"] # ERROR: no public key of age
  recipients_file = "recipients" # ERROR: both there
  interval        = "10ms" # ERROR: every second at most
}
