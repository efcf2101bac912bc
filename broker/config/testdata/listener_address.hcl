listener "tcp" {
  address = "8400"           # ERROR: it is not of the form HOST:PORT
}
