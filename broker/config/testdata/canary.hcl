probe "http" "right" {
  url           = "https://api.example.com/${field.key}"
  canary        = { key = file("token.txt"), user = env("TOKEN") }
  lockout_after = 5
  accepted {
    status = [200]
  }
}
probe "http" "literal" {
  url = "https://api.example.com/${field.key}"
  canary = {
    key  = "sk-literal"      # ERROR: A literal where a secret belongs: "canary" is secret
    user = file("none.txt")  # ERROR: The file cannot be used: no such file or directory
    pass = field.key         # ERROR: A literal where a secret belongs
    null = null              # ERROR: A literal where a secret belongs
  }
  lockout_after = "many"     # ERROR: A number is required
  accepted {
    status = [200]
  }
}
probe "http" "twice" {
  url = "https://api.example.com/${field.key}"
  canary = {
    key = env("TOKEN")
    key = env("TOKEN")       # ERROR: "canary" has "key" twice
  }
  accepted {
    status = [200]
  }
}
probe "http" "shape" {
  url    = "https://api.example.com/${field.key}"
  canary = file("token.txt") # ERROR: "canary" is an object. Write canary = { NAME = … }
  accepted {
    status = [200]
  }
}
