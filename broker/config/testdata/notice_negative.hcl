rotation_policy "base" {
  notice_before = "-72h" # ERROR: notice_before is negative: -72h0m0s
}
rotation_policy "other" {
  notice_before = 72 # ERROR: "notice_before" is no duration
}
