package daemon_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
	"github.com/keybroker/keybroker/broker/client"
)

const deployKey = "ci/deploy"

// deploys is the example of the issuer aws_iam, with a moto that checks signatures and
// policies in AWS's place.
type deploys struct {
	*site
	aws *motoserver.Server
}

func newDeploys(t *testing.T, soak string) *deploys {
	t.Helper()
	cloud := motoserver.StartGuarded(t)
	admin := cloud.User(t, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Resource":"*","Action":["iam:GetUser",
		"iam:ListAccessKeys","iam:CreateAccessKey","iam:UpdateAccessKey","iam:DeleteAccessKey","iam:GetAccessKeyLastUsed",
		"iam:GetUserPolicy","iam:PutUserPolicy"]}]}`)
	_, err := iam.NewFromConfig(cloud.AWS(motoserver.HomeRegion)).CreateUser(t.Context(), &iam.CreateUserInput{UserName: aws.String("ci-deploy")})
	if err != nil {
		t.Fatal(err)
	}
	there := fmt.Sprintf("\n  allow_private_network = true\n  endpoint = %q\n", cloud.URL)
	hcl := replaced(t, example(t, "aws_iam"),
		`soak         = "24h"`, fmt.Sprintf("soak = %q%s  sts_endpoint = %q", soak, there, cloud.URL),
		`account = "123456789012"`, `account = "123456789012"`+there,
		`schedule = "0 3 1 * *"`, "", `overlap  = "24h"`, `overlap = "0s"`, `"5s" #`, `"50ms" #`, `window     = "2m"`, `window = "1s"`)
	s := newSite(t, hcl)
	s.env = map[string]string{"KEYBROKER_AWS_ACCESS_KEY_ID": admin.ID, "KEYBROKER_AWS_SECRET_ACCESS_KEY": admin.Secret}
	return &deploys{s, cloud}
}

// keys are those that the user has, by their ids.
func (d *deploys) keys(t *testing.T) map[string]types.StatusType {
	t.Helper()
	out, err := iam.NewFromConfig(d.aws.AWS(motoserver.HomeRegion)).ListAccessKeys(t.Context(), &iam.ListAccessKeysInput{UserName: aws.String("ci-deploy")})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]types.StatusType{}
	for _, k := range out.AccessKeyMetadata {
		keys[*k.AccessKeyId] = k.Status
	}
	return keys
}

func idOf(t *testing.T, n *node) string {
	t.Helper()
	return n.value(t, deployKey).Fields["access_key_id"]
}

// The example rotates an access key to its proof, and ends the old one's sessions.
func TestAccessKeysAreRotatedAndProvenDead(t *testing.T) {
	t.Parallel()
	d := newDeploys(t, "0s")
	n := d.start()
	if check := must(n.CheckIssuer(t.Context(), "deploys", client.CheckIssuerRequest{Secret: deployKey}))(t); !check.OK {
		t.Errorf("the permissions of the example: %+v", check.Findings)
	}
	n.done(t, deployKey)
	first := idOf(t, n)
	rot, retired := n.rotate(t, deployKey)
	old := retired[rot.FromVersion]
	if rot.State != client.RotationDone || old.State != client.ProvenDead || old.Control != "current_version" || old.SessionsEndedAt.IsZero() {
		t.Fatalf("%+v\n%+v", rot, old)
	}
	if keys := d.keys(t); len(keys) != 1 || keys[idOf(t, n)] != types.StatusTypeActive || keys[first] != "" {
		t.Errorf("the user has %v, the current key is %s, the first was %s", keys, idOf(t, n), first)
	}
	_, err := iam.NewFromConfig(d.aws.AWS(motoserver.HomeRegion)).GetUserPolicy(t.Context(), &iam.GetUserPolicyInput{
		UserName: aws.String("ci-deploy"), PolicyName: aws.String("keybroker-ended-sessions")})
	if err != nil {
		t.Errorf("the policy that ends sessions: %v", err)
	}
	if log := d.log.String(); strings.Contains(log, d.env["KEYBROKER_AWS_SECRET_ACCESS_KEY"]) || strings.Contains(log, n.value(t, deployKey).Fields["secret_access_key"]) {
		t.Error("the log gives a secret away")
	}
}

// With a soak the key is inactive first. Moto by itself still takes it then, so that
// the proof comes when it is deleted.
func TestAccessKeysSoakBeforeTheyAreDeleted(t *testing.T) {
	t.Parallel()
	d := newDeploys(t, "3s")
	n := d.start()
	n.done(t, deployKey)
	first := idOf(t, n)
	r := must(n.Rotate(t.Context(), deployKey, client.RotateRequest{}))(t)
	eventually(t, "the old key being inactive", func() bool { return d.keys(t)[first] == types.StatusTypeInactive })
	rot, retired := n.follow(t, r.ID)
	old := retired[rot.FromVersion]
	if rot.State != client.RotationDone || old.State != client.ProvenDead {
		t.Fatalf("%+v\n%+v", rot, old)
	}
	if old.RemovedAt.IsZero() || old.RemovedAt.Sub(old.AcknowledgedAt) < 3*time.Second || old.ContainedAt.Before(old.RemovedAt) {
		t.Errorf("revoked %s, removed %s, first rejected %s", old.AcknowledgedAt, old.RemovedAt, old.ContainedAt)
	}
	if keys := d.keys(t); len(keys) != 1 || keys[first] != "" {
		t.Errorf("the user has %v", keys)
	}
}

// Where inactive keys are refused, as AWS does, the proof does not wait for the soak. An
// emergency does not either, although there is room for two keys only.
func TestEmergencyEndsTheSoakOfAnAccessKey(t *testing.T) {
	t.Parallel()
	d := newDeploys(t, "24h")
	d.aws.RefuseInactive(t)
	n := d.start()
	n.done(t, deployKey)
	first := idOf(t, n)
	rot, retired := n.rotate(t, deployKey)
	if old := retired[rot.FromVersion]; rot.State != client.RotationDone || old.State != client.ProvenDead || old.RemoveAt.IsZero() || !old.RemovedAt.IsZero() {
		t.Fatalf("%+v\n%+v", rot, old)
	}
	second := idOf(t, n)
	if keys := d.keys(t); len(keys) != 2 || keys[first] != types.StatusTypeInactive || keys[second] != types.StatusTypeActive {
		t.Fatalf("the user has %v", keys)
	}
	began := must(n.Emergency(t.Context(), deployKey, client.EmergencyRequest{Reason: "leaked"}))(t)
	rot, retired = n.follow(t, began.ID)
	if old := retired[rot.FromVersion]; rot.State != client.RotationDone || old.State != client.ProvenDead {
		t.Fatalf("%+v\n%+v", rot, old)
	}
	if keys := d.keys(t); keys[first] != "" || keys[second] == types.StatusTypeActive || keys[idOf(t, n)] != types.StatusTypeActive {
		t.Errorf("the user has %v", keys)
	}
}
