policy "reader" {
  path "a/*" {
    capabilities = ["read"]
    conditions {                     # ERROR: The conditions are empty
    }
  }
  path "b/*" {
    capabilities = ["read"]
    conditions {                     # ERROR: The conditions are empty
      time = null
    }
  }
  path "c/*" {
    capabilities = ["read"]
    conditions {
      day       = "Monday"           # ERROR: There is no attribute "day" here
      cidrs     = ["10.0.0.1/8"]     # ERROR: has bits beyond its length. Is "10.0.0.0/8" meant, or "10.0.0.1"?
      time_zone = "Europe/Berlin"
    }
  }
  path "d/*" {
    capabilities = ["raed"]          # ERROR: Did you mean "read"?
    conditions {
      environments = []              # ERROR: Environments is empty
      cidrs        = []              # ERROR: The list of networks is empty
      time         = "Mon-Fri"       # ERROR: "Mon-Fri"
      time_zone    = "Europe/Berln"  # ERROR: "Europe/Berln"
    }
  }
  path "e/*" {
    capabilities = ["read"]
    condition {                      # ERROR: Did you mean "conditions"?
      time = "Mon-Fri 08:00-18:00"
    }
  }
  path "f/*" {
    capabilities = ["read"]
    conditions {
      time_zone = "Europe/Berlin"    # ERROR: A time zone without a time says nothing
    }
  }
  path "teams/{{identity.tenant}}/*" {
    capabilities = ["read"]
  }
  path "teams/{{identity.tennant}}/*" { # ERROR: identity.tennant
    capabilities = ["read"]
  }
}
trigger "api" "templated" {
  action  = "rotate"
  secrets = ["teams/{{identity.tenant}}/*"] # ERROR: depends on who asks, which a trigger does not
}
