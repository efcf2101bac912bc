listener "tcp" {
  address = "0.0.0.0:8400"   # ERROR: Plain HTTP off loopback # ERROR: may not lie beside the data
}
