backend "local" "b" {}
backend "weak" "umbrella" {
  tenant = "umbrella"
  path   = "umbrella"
}
notifier "pagerduty" "pager" {}
notifier "webhook" "watch" {
  url = "https://watch.example.com"
}
alert "operators" {
  notifier  = "pager"
  on        = ["seal_down", "backend_down"]
  heartbeat = "1h"                             # WARNING: Nobody notices where a heartbeat stays away: the notifier "pager" is of the type "pagerduty"
}
alert "watched" {
  notifier  = "watch"
  heartbeat = "1h"
}
alert "acme" {
  tenant   = "acme"
  notifier = "pager"
  on = [
    "drift",
    "seal_down",                               # WARNING: The alert is never told of "seal_down": that is of no tenant
    "audit_sink_down",                         # WARNING: The alert is never told of "audit_sink_down"
    "new_root_token",                          # WARNING: The alert is never told of "new_root_token"
    "certificate_expiring",                    # WARNING: The alert is never told of "certificate_expiring"
    "backend_down",                            # WARNING: The alert is never told of "backend_down": the tenant "acme" has no backend of its own
    "break_glass",
  ]
}
alert "umbrella" {
  tenant   = "umbrella"
  notifier = "pager"
  on       = ["backend_down", "rotation_failed"]
}
secret "a/b" {
  backend = "b"
  proof   = "none"
  issuer "i" {}
}
issuer "api_key" "i" {}
