emergency {
  approval_above   = -1            # ERROR: approval_above cannot be negative
  approval_timeout = "0s"          # ERROR: An emergency waits between a moment and 30 days for its approval
}
emergency {                        # ERROR: second
}
