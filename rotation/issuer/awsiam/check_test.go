package awsiam_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
	"github.com/keybroker/keybroker/rotation/issuer"
)

func problems(findings []issuer.Finding) (wrong, unknown []string) {
	for _, f := range findings {
		switch {
		case f.Problem == "":
		case f.Unknown:
			unknown = append(unknown, f.What+": "+f.Problem)
		default:
			wrong = append(wrong, f.What+": "+f.Problem)
		}
	}
	return wrong, unknown
}

func has(list []string, word string) bool {
	return slices.ContainsFunc(list, func(text string) bool { return strings.Contains(text, word) })
}

// IAM's simulator tells of every action whether it is allowed. Moto has none, so its
// answer is that of the API reference.
func TestCheckAsksTheSimulator(t *testing.T) {
	t.Parallel()
	c := newCloud(t, shared(t))
	front := newFront(t, c.URL)
	is := c.open(c.config(front.URL, c.admin))
	_, sub := c.user()
	decisions := map[string]string{}
	for _, action := range needed {
		decisions[action] = "allowed"
	}
	front.simulate(decisions)
	if wrong, unknown := problems(is.Check(t.Context(), sub)); len(wrong)+len(unknown) > 0 {
		t.Errorf("all is allowed, but found is %q, %q", wrong, unknown)
	}
	decisions["iam:CreateAccessKey"], decisions["iam:PutUserPolicy"] = "implicitDeny", "explicitDeny"
	delete(decisions, "iam:ListAccessKeys")
	front.simulate(decisions)
	wrong, unknown := problems(is.Check(t.Context(), sub))
	if len(wrong) != 2 || !has(wrong, "iam:CreateAccessKey") || !has(wrong, "iam:PutUserPolicy") || len(unknown) != 1 || !has(unknown, "iam:ListAccessKeys") {
		t.Errorf("found is %q, %q", wrong, unknown)
	}
}

// Without the simulator what has an effect cannot be tried, and is said to be unknown.
func TestCheckWithoutTheSimulator(t *testing.T) {
	t.Parallel()
	c := newCloud(t, shared(t))
	is := c.open(c.config(c.URL, c.User(t, allowing(needed...))))
	user, sub := c.user()
	wrong, unknown := problems(is.Check(t.Context(), sub))
	if len(wrong) != 0 || !has(unknown, "iam:CreateAccessKey") || !has(unknown, "iam:PutUserPolicy") || !has(unknown, "SimulatePrincipalPolicy") {
		t.Errorf("found is %q, %q", wrong, unknown)
	}
	for range 2 {
		if _, err := is.Issue(t.Context(), issuer.Request{Subject: sub}); err != nil {
			t.Fatal(err)
		}
	}
	if _, unknown := problems(is.Check(t.Context(), sub)); !has(unknown, "2 of 2") {
		t.Errorf("with both places taken found is %q", unknown)
	}
	key := c.keys(user)[0]
	inactive := &iam.UpdateAccessKeyInput{UserName: &user, AccessKeyId: key.AccessKeyId, Status: types.StatusTypeInactive}
	if _, err := c.client().UpdateAccessKey(t.Context(), inactive); err != nil {
		t.Fatal(err)
	}
	found := is.Check(t.Context(), sub)
	if _, unknown := problems(found); !has(unknown, "2 of 2, 1 active") || !strings.Contains(fmt.Sprint(found), *key.AccessKeyId) {
		t.Errorf("with a place taken by an inactive key found is %+v", found)
	}
	if wrong, unknown := problems(is.Check(t.Context(), issuer.Subject{})); len(wrong) != 0 || len(unknown) != 1 || !has(unknown, "none was asked about") {
		t.Errorf("before any secret uses it found is %q, %q", wrong, unknown)
	}
	if wrong, _ := problems(is.Check(t.Context(), issuer.Subject{Settings: []byte(`{"user":"nobody"}`)})); !has(wrong, "no user of this name") {
		t.Errorf("of a user that is not there found is %q", wrong)
	}
}

// An issuer may rotate its own user's keys, but is told what comes of it.
func TestCheckWarnsOfItsOwnUser(t *testing.T) {
	t.Parallel()
	c := newCloud(t, shared(t))
	user, sub := c.user()
	policy := motoserver.Everything
	name := "own"
	if _, err := c.client().PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: &user, PolicyName: &name, PolicyDocument: &policy}); err != nil {
		t.Fatal(err)
	}
	made, err := c.client().CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: &user})
	if err != nil {
		t.Fatal(err)
	}
	is := c.open(c.config(c.URL, motoserver.Key{ID: *made.AccessKey.AccessKeyId, Secret: *made.AccessKey.SecretAccessKey}))
	if wrong, _ := problems(is.Check(t.Context(), sub)); len(wrong) != 1 || !has(wrong, "it logs in as this user") {
		t.Errorf("found is %q", wrong)
	}
	if _, err := is.Issue(t.Context(), issuer.Request{Subject: sub}); err != nil {
		t.Errorf("it is refused all the same: %v", err)
	}
}

var jsonBlock = regexp.MustCompile("(?s)```json\n(.*?)```")

// The policy of the documentation is enough for all that the issuer does, and each
// action in it is needed. Moto knows no ARNs of users: * stands for them here.
func TestDocumentedPolicyIsTheLeast(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/issuers/aws_iam.md")
	if err != nil {
		t.Fatal(err)
	}
	block := jsonBlock.FindSubmatch(page)
	if block == nil {
		t.Fatal("the page shows no policy")
	}
	var policy struct {
		Version   string
		Statement []struct {
			Sid, Effect, Resource string
			Action                []string
		}
	}
	if err := json.Unmarshal(block[1], &policy); err != nil {
		t.Fatal(err)
	}
	var actions []string
	for i := range policy.Statement {
		actions = append(actions, policy.Statement[i].Action...)
		policy.Statement[i].Resource = "*"
	}
	text, err := json.Marshal(policy)
	if err != nil {
		t.Fatal(err)
	}
	c := newCloud(t, shared(t))
	if failed := c.uses(string(text)); failed != nil {
		t.Errorf("with the documented policy: %v", failed)
	}
	for _, action := range actions {
		switch action {
		case "iam:SimulatePrincipalPolicy", "iam:GetUser": // of Check alone
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(actions), func(a string) bool { return a == action })
		if c.uses(allowing(rest...)) == nil {
			t.Errorf("%s is documented, and not needed", action)
		}
	}
}

// uses does all that an issuer does in a rotation, with what a policy allows.
func (c *cloud) uses(policy string) error {
	ctx := c.t.Context()
	is := c.open(c.config(c.URL, c.User(c.t, policy)))
	_, sub := c.user()
	if _, err := is.List(ctx, sub); err != nil {
		return err
	}
	cred, err := is.Issue(ctx, issuer.Request{Subject: sub})
	if err != nil {
		return err
	}
	if _, err := is.LastUsed(ctx, sub, cred.Handle); err != nil {
		return err
	}
	if err := is.Revoke(ctx, sub, cred.Handle); err != nil { // and deletes it
		return err
	}
	return is.EndSessions(ctx, sub, cred.Handle)
}
