# The access keys of an AWS IAM user, rotated every month. Look at
# docs/issuers/aws_iam.md and docs/issuers/probe-aws_sts.md.

data_dir = "data"

listener "tcp" {
  address = "127.0.0.1:8400"
}

backend "local" "embedded" {}

# Without access_key_id and secret_access_key the credentials are found as the AWS SDKs
# find them: in the environment, a container, an instance.
issuer "aws_iam" "deploys" {
  region            = "eu-central-1"
  access_key_id     = env("KEYBROKER_AWS_ACCESS_KEY_ID")
  secret_access_key = env("KEYBROKER_AWS_SECRET_ACCESS_KEY")

  soak         = "24h" # inactive for so long, then deleted
  exclusive    = true  # nobody else makes keys for these users
  end_sessions = true
}

probe "aws_sts" "deploys" {
  region  = "eu-central-1"
  account = "123456789012"
}

secret "ci/deploy" {
  backend = "embedded"
  probe   = "deploys"
  issuer "deploys" {
    user = "ci-deploy"
  }
  rotation {
    schedule = "0 3 1 * *"
    overlap  = "24h"
    verify {
      successes = 3
      interval  = "5s" # a new key is not known everywhere for some seconds
      timeout   = "5m"
    }
    confirm {
      rejections = 3
      window     = "2m"
    }
  }
}
