backend "vault" "prod" {
  address = vault            # ERROR: There is no variable "vault"
  mount   = upper("a")       # ERROR: There is no function "upper" here
}
data_dir = "${local.dir}/x"  # ERROR: There is no variable "local"
