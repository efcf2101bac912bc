trigger "api" "a" {
  action  = "explode"        # ERROR: There is no action "explode". Known are rotate, emergency.
  secrets = ["*"]
}
trigger "api" "b" {
  action  = "emergency"
  secrets = ["a/*", "/b"]    # ERROR: begins with a slash
}
