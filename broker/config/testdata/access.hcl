policy "root" {              # ERROR: The policy "root" is built in, allows everything and cannot be replaced
  path "e" {
    capabilities = ["read"]
  }
}
policy "a" {
  pth "e" {}                 # ERROR: Did you mean "path"?
}
policy "b" {
  path "a*b" {               # ERROR: has a * that is not at its end
    capabilities = ["read"]
  }
  path "c" {
    capabilities = ["raed"]  # ERROR: Did you mean "read"?
  }
  path "d" {
    capabilities = []        # ERROR: The rule has no capabilities
  }
}
