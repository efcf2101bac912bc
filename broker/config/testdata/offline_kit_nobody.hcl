offline_kit { # ERROR: Nobody could open the offline kit
  path = "kit.age"
}
