# Mistakes of one block, and those of the secrets that it is about, stand together.
rotation_policy "p" {
  schedule  = "61 * * * *"     # ERROR: the minute "61" is wrong
  time_zone = "Europe/Berln"   # ERROR: is no time zone
  overlap   = "soon"           # ERROR: "overlap" is no duration
  jitter    = "-1m"            # ERROR: Jitter is negative
  verify {
    successes = "many"         # ERROR: "successes" is of the wrong type
    interval  = "4m"
    timeout   = "2m"
  }
  confirm {
    rejections = 0             # ERROR: 0 rejections prove nothing
    window     = 5.5           # ERROR: "window" is no duration
  }
  limits {
    max_overlap = "1s"
  }
}
rotation_policy "unread" {
  match {
    paths = 5                  # ERROR: "paths" is of the wrong type
  }
  overlap = "0s"
  key {
    length = -1                # ERROR: negative length
  }
}
backend "local" "b" {}
issuer "set" "s" {}
secret "a" {                   # ERROR: rotates without a probe
  backend = "b"
  issuer "s" { roles = ["a"] }
}
secret "b" {                   # ERROR: rotates without a probe
  backend = "c"                # ERROR: There is no backend "c"
  issuer "s" { roles = ["b"] }
  rotation {
    overlap   = "2h"           # ERROR: cannot give an overlap # ERROR: is longer than max_overlap
    time_zone = "x"            # ERROR: is no time zone
    limits    = 3              # ERROR: There is no attribute "limits"
  }
}
secret "c" {
  backend = "b"
  prob    = "p"                # ERROR: Did you mean "probe"?
  issuer "s" { roles = ["c"] }
}
policy "x" {
  path "a" {
    capabilities = "read"      # ERROR: wrong type
  }
  path "/b" {                  # ERROR: begins with a slash
    capabilities = ["raed"]    # ERROR: Did you mean "read"?
  }
}
