backend "local" "b" {}
consumer "web" {
  role = "shop"
  webhook {
    url = "https://web.example.com"
  }
}
consumer "batch" {
  role = "shop"
  inbox {}
}
consumer "worker" {
  role = "worker"
  inbox {}
}
consumer "anybody" {
  webhook {
    url = "https://any.example.com"
  }
}
consumer "nobody" {
  webhook {
    url = "https://nobody.example.com"
  }
}
role "shop" {
  tenant   = "default"
  policies = ["reader"]
}
role "worker" {
  tenant   = "default"
  policies = ["reader"]
}
policy "reader" {
  path "*" {
    capabilities = ["read"]
  }
}
secret "a" {
  backend   = "b"
  consumers = ["web", "worker", "anybody", "nobody"]
}
secret "b" {
  backend   = "b"
  consumers = ["batch"]
}
secret "c" {
  backend   = "b"
  consumers = ["web", "worker", "batch"] # ERROR: The consumers "web" and "batch" have the same role "shop", so what the one fetches or acknowledges would count for the other. See testdata/one_role.hcl:3: role = "shop" and testdata/one_role.hcl:9: role = "shop". Give each application a role of its own.
}
