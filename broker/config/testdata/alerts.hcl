notifier "webhook" "pager" {
  url = "https://pager.example.com"
}
notifier "webhok" "boss" {        # ERROR: Did you mean "webhook"?
  url = "https://pager.example.com"
}
notifier "webhook" "pager" {      # ERROR: There is a second notifier "pager"
  url = "https://pager.example.com"
}
notifier "webhook" "open" {
  url   = "https://pager.example.com"
  token = "secret"                # ERROR: A literal where a secret belongs
}
alert "kinds" {
  notifier = "pager"
  on = [
    "unconfirmed",
    "ressurected",                # ERROR: There is no kind of alert "ressurected". Did you mean "resurrected"?
    "unconfirmed",                # ERROR: The kind "unconfirmed" is listed twice
  ]
}
alert "nothing" {
  notifier  = "pager"
  on        = []                  # ERROR: The alert is on nothing
  repeat    = "-1h"               # ERROR: repeat cannot be negative
  heartbeat = "-1h"               # ERROR: heartbeat cannot be negative
}
alert "nobody" {                  # ERROR: The attribute "notifier" is missing
}
alert "somebody" {
  notifier = "pgaer"              # ERROR: Did you mean "pager"?
  escalate {                      # ERROR: The attribute "after" is missing # ERROR: The attribute "notifier" is missing
  }
}
alert "again" {
  notifier = "pager"
  escalate {
    after    = "0s"               # ERROR: An alert escalates some time after it was told first
    notifier = "pager"            # ERROR: The alert escalates to the notifier "pager", which was told already
  }
}
alert "twice" {
  notifier = "pager"
  escalate {
    after    = "1h"
    notifier = "boss"
  }
  escalate {                      # ERROR: There is a second escalate block
    after    = "2h"
    notifier = "boss"
  }
}
alert "twice" {                   # ERROR: There is a second alert "twice"
  notifier = "pager"
}
