package awsiam_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/awsiam"
)

func shared(t *testing.T) *motoserver.Server {
	t.Helper()
	return motoserver.SharedGuarded(t)
}

func TestValidateReportsEveryMistake(t *testing.T) {
	t.Parallel()
	minus, none := -time.Second, time.Duration(0)
	err := awsiam.Config{
		Conn: awsconn.Config{
			Region: "Frankfurt", Endpoint: "http://127.0.0.1:5000",
			AssumeRole: &awsconn.AssumeRole{RoleARN: "arn:aws:iam::123456789012:role/keybroker", Endpoint: "http://127.0.0.1:5000"},
		},
		STSEndpoint: "http://127.0.0.1:5000", Soak: &minus, RevocationBudget: &none,
	}.Validate()
	if !errors.Is(err, backends.ErrInvalid) {
		t.Fatal(err)
	}
	for _, name := range []string{"region", "assume_role.endpoint must begin", "endpoint must begin", "sts_endpoint must begin", "soak is", "revocation_budget is"} {
		if !strings.Contains(err.Error(), "invalid: "+name) {
			t.Errorf("%s is not told: %v", name, err)
		}
	}
	for _, endpoint := range []string{"sts", "https://sts.example/path", "https://user@sts.example"} {
		err := awsiam.Config{Conn: awsconn.Config{Region: "eu-central-1"}, STSEndpoint: endpoint}.Validate()
		if err == nil || !strings.Contains(err.Error(), "sts_endpoint") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	for _, good := range []awsiam.Config{
		{Conn: awsconn.Config{Region: "eu-central-1"}},
		{Conn: awsconn.Config{Region: "eu-central-1", Endpoint: "https://iam.example"}, STSEndpoint: "https://sts.example/", Soak: &none},
		{Conn: awsconn.Config{Region: "eu-central-1", Endpoint: "http://127.0.0.1:5000"}, AllowPrivateNetwork: true},
	} {
		if err := good.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestTraits(t *testing.T) {
	t.Parallel()
	got := awsiam.Config{}.Traits()
	if got.Soak != 24*time.Hour || got.RevocationBudget != 2*time.Minute || got.MaxLive != 2 || got.Exclusive || !got.ShowOnce || !got.DerivedSessions {
		t.Errorf("by default they are %+v", got)
	}
}

func TestCheckSettings(t *testing.T) {
	t.Parallel()
	for settings, want := range map[string]string{
		`{"user":"ci-deploy"}`:             "",
		`{"user":"a+b=c,d.e@f-g_h"}`:       "",
		``:                                 "user is missing",
		`null`:                             "user is missing",
		`{}`:                               "user is missing",
		`{"user":3}`:                       "user must be the name",
		`{"user":"arn:aws:iam::1:user/a"}`: "write the name alone",
		`{"user":"ci/deploy"}`:             "no name of an IAM user",
		`{"user":"ci","role":"x"}`:         "role is unknown",
		`[]`:                               "must be an object",
	} {
		text := strings.Join(awsiam.Config{}.CheckSettings([]byte(settings)), "\n")
		if (text == "") != (want == "") || !strings.Contains(text, want) {
			t.Errorf("%s: got %q, want %q", settings, text, want)
		}
	}
}

// Without allow_private_network nothing on this machine or in a private network is
// connected to, and nothing is sent.
func TestPrivateNetworkIsGuarded(t *testing.T) {
	t.Parallel()
	is, err := awsiam.Open(t.Context(), awsiam.Config{Conn: awsconn.Config{
		Region: "eu-central-1", Endpoint: "https://127.0.0.1:1", AccessKeyID: "AKIAKEYBROKERTESTING", SecretAccessKey: "canary-3f0a91",
	}}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer is.Close()
	if text := fmt.Sprintf("%+v %#v", is, is); strings.Contains(text, "canary-3f0a91") {
		t.Error("printing the issuer shows its key")
	}
	_, err = is.Issue(t.Context(), issuer.Request{Subject: issuer.Subject{Settings: []byte(`{"user":"ci"}`)}})
	if !errors.Is(err, issuer.ErrNotSent) || !strings.Contains(err.Error(), "allow_private_network") {
		t.Errorf("got %v", err)
	}
}
