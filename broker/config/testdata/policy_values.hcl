rotation_policy "a" {
  match {
    paths = ["a*b"]          # ERROR: that is not at its end
  }
  overlap = "-1h"            # ERROR: Overlap is negative
  verify {
    successes = 0            # ERROR: 0 successes verify nothing
  }
  confirm {
    rejections = 0           # ERROR: 0 rejections prove nothing
    window     = "-1s"       # ERROR: is negative
    recheck    = ["2h", "1h"]  # ERROR: not in ascending order
  }
  acknowledgement {
    require    = "aplied"    # ERROR: Did you mean "applied"?
    on_timeout = "panic"     # ERROR: proceed
  }
  emergency {
    contain = "run"          # ERROR: replace_first
  }
}
rotation_policy "b" {
  overlap = "50h"            # ERROR: is longer than max_overlap
  limits {
    max_overlap = "48h"
  }
}
