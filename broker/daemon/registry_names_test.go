package daemon_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

// A vault that does not take every name says so when the configuration is loaded.
func TestNamesThatAVaultDoesNotTake(t *testing.T) {
	t.Parallel()
	const text = `backend "aws_parameter_store" "params" {
  region = "eu-central-1"
}
backend "aws_secrets_manager" "secrets" {
  region = "eu-central-1"
}
backend "local" "here" {}
secret "ssm/key" {
  backend = "params"
}
secret "db-master" {
  backend = "secrets"
}
secret "db-backup" {
  backend = "here"
  mirrors = ["secrets"]
}
secret "db-main" {
  backend = "secrets"
  mirrors = ["params", "here"]
}
`
	_, diags := config.Parse(map[string][]byte{"names.hcl": []byte(text)}, daemon.Registry(), config.Options{Dir: t.TempDir()})
	var got []string
	for _, d := range diags.All() {
		if d.Severity == hcl.DiagError {
			got = append(got, fmt.Sprintf("%d: %s. %s", d.Subject.Start.Line, d.Summary, d.Detail))
		}
	}
	want := []string{
		`8: The backend "params" has no place for this name: the parameter name "/ssm/key" begins with aws or ssm, which AWS keeps for itself. Choose another one, or name another backend.`,
		`16: The mirror "secrets" makes no secret of this name: the name "db-backup" ends in a hyphen and six characters, which AWS may take for the end of an ARN. ` +
			`Choose another.`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("said is %q, want %q", got, want)
	}
}
