backend "local" {}           # ERROR: Write backend "TYPE" "NAME" { … }.
backend "local" "a" "b" {}   # ERROR: has 2 labels, here are 3
backend {}                   # ERROR: has 2 labels, here are 0
secret {}                    # ERROR: Write secret "NAME" { … }.
consumer "a" "b" {}          # ERROR: has 1 labels, here are 2
policy {}                    # ERROR: has 1 labels, here are 0
rotation_policy {}           # ERROR: has 1 labels, here are 0
trigger "api" {}             # ERROR: has 2 labels, here are 1
listener {}                  # ERROR: has 1 labels, here are 0
storage "sqlite" "x" {}      # ERROR: has 1 labels, here are 2
