package motoserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/hashicorp/go-cleanhttp"

	"github.com/keybroker/keybroker/backends/awsconn"
)

// HomeRegion is where KMSKey makes its keys and where IAM's requests are signed for.
const HomeRegion = "us-east-1"

// Everything is a policy that allows all.
const Everything = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`

// Key is an access key.
type Key struct {
	ID, Secret string
	user       string
}

// anybody is for a server that checks no credentials.
var anybody = Key{ID: "AKIAKEYBROKERTESTING", Secret: "unchecked"}

// AWS returns what the SDK's clients of a region are made from, with credentials
// that may do everything. Nothing in it comes from the environment.
func (s *Server) AWS(region string) aws.Config {
	return aws.Config{
		Region:       region,
		BaseEndpoint: aws.String(s.URL),
		Credentials:  credentials.NewStaticCredentialsProvider(s.admin.ID, s.admin.Secret, ""),
		HTTPClient:   &http.Client{Transport: awsconn.InMemory(cleanhttp.DefaultTransport())}, // no idle connections left to a leak test
	}
}

// Region returns the name of a region in which there is nothing yet.
func (s *Server) Region() string { return fmt.Sprintf("test-%d", s.names.Add(1)) }

// User makes an IAM user with a policy of its own, and an access key of its.
// Only a server of StartGuarded minds the policy.
func (s *Server) User(t testing.TB, policy string) Key {
	t.Helper()
	client := iam.NewFromConfig(s.AWS(HomeRegion))
	name := aws.String(fmt.Sprintf("user-%d", s.names.Add(1)))
	if _, err := client.CreateUser(t.Context(), &iam.CreateUserInput{UserName: name}); err != nil {
		t.Fatalf("creating an IAM user: %v", err)
	}
	_, err := client.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{
		UserName: name, PolicyName: aws.String("own"), PolicyDocument: aws.String(policy),
	})
	if err != nil {
		t.Fatalf("giving an IAM user a policy: %v", err)
	}
	return s.NextKey(t, Key{user: *name})
}

// NextKey makes another access key of the same user.
func (s *Server) NextKey(t testing.TB, of Key) Key {
	t.Helper()
	made, err := iam.NewFromConfig(s.AWS(HomeRegion)).CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: &of.user})
	if err != nil {
		t.Fatalf("creating an access key: %v", err)
	}
	return Key{ID: *made.AccessKey.AccessKeyId, Secret: *made.AccessKey.SecretAccessKey, user: of.user}
}

// DeleteKey deletes an access key, which is refused from then on.
func (s *Server) DeleteKey(t testing.TB, key Key) {
	t.Helper()
	_, err := iam.NewFromConfig(s.AWS(HomeRegion)).DeleteAccessKey(t.Context(), &iam.DeleteAccessKeyInput{
		UserName: &key.user, AccessKeyId: &key.ID,
	})
	if err != nil {
		t.Fatalf("deleting an access key: %v", err)
	}
}

// Role makes a role that every user whose policy lets it may assume, and returns
// its ARN.
func (s *Server) Role(t testing.TB, policy string) string {
	t.Helper()
	client := iam.NewFromConfig(s.AWS(HomeRegion))
	name := aws.String(fmt.Sprintf("role-%d", s.names.Add(1)))
	made, err := client.CreateRole(t.Context(), &iam.CreateRoleInput{
		RoleName: name,
		AssumeRolePolicyDocument: aws.String(
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}`),
	})
	if err != nil {
		t.Fatalf("creating a role: %v", err)
	}
	_, err = client.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{
		RoleName: name, PolicyName: aws.String("own"), PolicyDocument: aws.String(policy),
	})
	if err != nil {
		t.Fatalf("giving a role a policy: %v", err)
	}
	return *made.Role.Arn
}

// EndSessions makes the credentials of every assumed role be refused. The roles
// may be assumed again.
func (s *Server) EndSessions(t testing.TB) {
	t.Helper()
	s.post(t, "/end-sessions", "")
}

// RefuseInactive makes access keys that are inactive be refused from now on, in the
// words for those that were deleted.
func (s *Server) RefuseInactive(t testing.TB) {
	t.Helper()
	s.post(t, "/refuse-inactive", "")
}

// KMSKey makes a symmetric key in a region and returns its id.
func (s *Server) KMSKey(t testing.TB, region string) string {
	t.Helper()
	made, err := kms.NewFromConfig(s.AWS(region)).CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatalf("creating a KMS key: %v", err)
	}
	return *made.KeyMetadata.KeyId
}

// post sends one of the requests that are not AWS's.
func (s *Server) post(t testing.TB, path, body string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: cleanhttp.DefaultTransport()}).Do(req)
	if err != nil {
		t.Fatalf("asking moto for %s: %v", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("asking moto for %s: %s: %s", path, resp.Status, answer)
	}
}
