package awsiam_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/awsiam"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest"
)

// cloud is an AWS of a test.
type cloud struct {
	*motoserver.Server
	t     *testing.T
	admin motoserver.Key
	users []string
}

var users atomic.Int64

func newCloud(t *testing.T, s *motoserver.Server) *cloud {
	t.Helper()
	return &cloud{Server: s, t: t, admin: s.User(t, motoserver.Everything)}
}

func (c *cloud) client() *iam.Client { return iam.NewFromConfig(c.AWS(motoserver.HomeRegion)) }

// user makes a user without keys, and the subject that is about it.
func (c *cloud) user() (string, issuer.Subject) {
	c.t.Helper()
	name := fmt.Sprintf("ci-%d", users.Add(1))
	if _, err := c.client().CreateUser(c.t.Context(), &iam.CreateUserInput{UserName: &name}); err != nil {
		c.t.Fatal(err)
	}
	c.users = append(c.users, name)
	return name, issuer.Subject{
		Ref:      backends.Ref{Tenant: "acme", Name: "aws/" + name},
		Settings: fmt.Appendf(nil, `{"user":%q}`, name),
	}
}

// config is that of an issuer which asks IAM at url.
func (c *cloud) config(url string, key motoserver.Key) awsiam.Config {
	return awsiam.Config{
		Conn: awsconn.Config{
			Region: motoserver.HomeRegion, Endpoint: url,
			AccessKeyID: backends.SecretString(key.ID), SecretAccessKey: backends.SecretString(key.Secret),
		},
		STSEndpoint: url, AllowPrivateNetwork: true, EndSessions: true, Exclusive: true, Soak: new(time.Duration),
	}
}

// logs keeps what is logged until its test looks whether a secret is in it.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (c *cloud) open(cfg awsiam.Config) *awsiam.Issuer {
	c.t.Helper()
	log := &logs{}
	is, err := awsiam.Open(c.t.Context(), cfg, hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Trace}))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		is.Close()
		log.mu.Lock()
		defer log.mu.Unlock()
		if secret := cfg.Conn.SecretAccessKey.Reveal(); strings.Contains(log.b.String(), secret) {
			c.t.Error("the log gives a secret away")
		}
	})
	return is
}

func (c *cloud) keys(user string) []types.AccessKeyMetadata {
	c.t.Helper()
	out, err := c.client().ListAccessKeys(c.t.Context(), &iam.ListAccessKeysInput{UserName: &user})
	if err != nil {
		c.t.Fatal(err)
	}
	return out.AccessKeyMetadata
}

func (c *cloud) live() []string {
	var ids []string
	for _, user := range c.users {
		for _, k := range c.keys(user) {
			ids = append(ids, *k.AccessKeyId)
		}
	}
	return ids
}

// works asks STS whose key it is.
func (c *cloud) works(v backends.Value) bool {
	fields := v.Reveal()
	conn := c.AWS(motoserver.HomeRegion)
	conn.Credentials = credentials.NewStaticCredentialsProvider(fields["access_key_id"], fields["secret_access_key"], "")
	_, err := sts.NewFromConfig(conn).GetCallerIdentity(context.Background(), &sts.GetCallerIdentityInput{})
	return err == nil
}

// allowing is a policy that allows these actions alone.
func allowing(actions ...string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Resource":"*","Action":["` + strings.Join(actions, `","`) + `"]}]}`
}

var needed = []string{
	"iam:GetUser", "iam:CreateAccessKey", "iam:UpdateAccessKey", "iam:DeleteAccessKey", "iam:ListAccessKeys",
	"iam:GetAccessKeyLastUsed", "iam:GetUserPolicy", "iam:PutUserPolicy",
}

func without(action string) string {
	return allowing(slices.DeleteFunc(slices.Clone(needed), func(a string) bool { return a == action })...)
}

// harness is an issuer that may do what it needs and nothing else.
func (c *cloud) harness(adjust func(*awsiam.Config)) issuertest.Harness {
	t := c.t
	p := faultproxy.New(t, c.URL)
	config := func(url string, key motoserver.Key) awsiam.Config {
		cfg := c.config(url, key)
		adjust(&cfg)
		return cfg
	}
	gone := c.User(t, motoserver.Everything)
	c.DeleteKey(t, gone)
	h := issuertest.Harness{
		Issuer: c.open(config(p.URL, c.User(t, allowing(append(needed, "sts:AssumeRole")...)))), Public: []string{"access_key_id"},
		Live: c.live, Name: func(h issuer.Handle) string { return h["access_key_id"] }, Works: c.works, Limited: true,
		Unknown: func(issuer.Handle) issuer.Handle {
			return issuer.Handle{"user": "nobody", "access_key_id": "AKIA0000000000000000"}
		},
		Refused: func(r issuer.Request) issuer.Request {
			r.Subject.Settings = []byte(`{"user":"nobody"}`)
			return r
		},
		Cut: issuertest.CutHTTP(t, c.URL, func(url string) issuer.Issuer { return c.open(config(url, c.admin)) }),
		LoseAnswer: func() {
			p.Set(faultproxy.Rule{Fault: faultproxy.LostAnswer(), Times: 1})
		},
		Outage:      toggled(p, faultproxy.Status(503)),
		Hang:        toggled(p, faultproxy.Latency(time.Hour)),
		Denied:      c.open(config(p.URL, motoserver.Key{ID: "AKIAKEYBROKERNOBODY0", Secret: "canary-5d81e0"})),
		Expired:     c.open(config(p.URL, gone)),
		Unreachable: c.open(config("http://127.0.0.1:1", c.admin)),
		Lacking:     map[string]issuer.Issuer{},
		Use:         func(v backends.Value) { c.works(v) },
		Secrets:     []string{c.admin.Secret, gone.Secret, "canary-5d81e0"},
	}
	for _, action := range []string{"iam:ListAccessKeys", "iam:UpdateAccessKey", "iam:DeleteAccessKey", "iam:GetUserPolicy"} {
		h.Lacking[action] = c.open(c.config(c.URL, c.User(t, without(action))))
	}
	_, h.Subject = c.user()
	for range 3 {
		_, other := c.user()
		h.Others = append(h.Others, other)
	}
	return h
}

func toggled(p *faultproxy.Proxy, f faultproxy.Fault) func(on bool) {
	return func(on bool) {
		if p.Set(); on {
			p.Set(faultproxy.Rule{Fault: f})
		}
	}
}

// Without a soak a key is deleted when it is revoked. Moto's sessions of
// GetSessionToken are accepted nowhere, so that none can be begun; see
// TestEndSessions.
func TestIssuer(t *testing.T) {
	t.Parallel()
	s := motoserver.StartGuarded(t)
	issuertest.Run(t, func(t *testing.T) issuertest.Harness {
		return newCloud(t, s).harness(func(*awsiam.Config) {})
	})
}

// With a soak it is inactive until it is removed: AWS refuses inactive keys, and here
// moto is made to. The issuer is a role that it assumes.
func TestIssuerWithSoak(t *testing.T) {
	t.Parallel()
	s := motoserver.StartGuarded(t)
	s.RefuseInactive(t)
	role := s.Role(t, allowing(needed...))
	issuertest.Run(t, func(t *testing.T) issuertest.Harness {
		day := 24 * time.Hour
		h := newCloud(t, s).harness(func(cfg *awsiam.Config) {
			cfg.Soak = &day
			cfg.Conn.AssumeRole = &awsconn.AssumeRole{RoleARN: role, Endpoint: cfg.Conn.Endpoint}
		})
		h.Expire = func() { s.EndSessions(t) }
		return h
	})
}

// What AWS says of inactive keys and moto does not, so that with a soak a proof comes
// there only when the key is removed.
func TestMotoTakesInactiveKeys(t *testing.T) {
	t.Parallel()
	c := newCloud(t, shared(t))
	cfg := c.config(c.URL, c.admin)
	cfg.Soak = nil // a day
	is := c.open(cfg)
	user, sub := c.user()
	cred, err := is.Issue(t.Context(), issuer.Request{Subject: sub})
	if err != nil {
		t.Fatal(err)
	}
	if err := is.Revoke(t.Context(), sub, cred.Handle); err != nil {
		t.Fatal(err)
	}
	if keys := c.keys(user); len(keys) != 1 || keys[0].Status != types.StatusTypeInactive || !c.works(cred.Value) {
		t.Errorf("the keys are %+v, and the inactive one is refused", keys)
	}
	if err := is.Remove(t.Context(), sub, cred.Handle); err != nil {
		t.Fatal(err)
	}
	if keys := c.keys(user); len(keys) != 0 || c.works(cred.Value) {
		t.Errorf("the keys are %+v, or the removed one is taken", keys)
	}
}

// A user that was renamed keeps its keys, and they are turned off.
func TestKeyOfAUserThatWasRenamed(t *testing.T) {
	t.Parallel()
	c := newCloud(t, shared(t))
	is := c.open(c.config(c.URL, c.admin))
	user, sub := c.user()
	cred, err := is.Issue(t.Context(), issuer.Request{Subject: sub})
	if err != nil {
		t.Fatal(err)
	}
	// Moto renames a user, but not what it remembers with a key.
	other, _ := c.user()
	moved := issuer.Handle{"user": other, "access_key_id": cred.Handle["access_key_id"]}
	if err := is.Revoke(t.Context(), sub, moved); err != nil {
		t.Fatal(err)
	}
	if keys := c.keys(user); len(keys) != 0 {
		t.Errorf("the key lives on: %+v", keys)
	}
}

// IAM is eventually consistent: that a server finds no key, of which another says whose
// it is, is no acknowledgement.
func TestServersOfIAMThatDoNotAgree(t *testing.T) {
	t.Parallel()
	c := newCloud(t, shared(t))
	front := newFront(t, c.URL)
	is := c.open(c.config(front.URL, c.admin))
	user, sub := c.user()
	cred, err := is.Issue(t.Context(), issuer.Request{Subject: sub})
	if err != nil {
		t.Fatal(err)
	}
	other, _ := c.user()
	for _, h := range []issuer.Handle{cred.Handle, {"user": other, "access_key_id": cred.Handle["access_key_id"]}} {
		front.findNothing("UpdateAccessKey", "DeleteAccessKey")
		if err := is.Revoke(t.Context(), sub, h); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("revoking %v where one server finds no key: %v", h, err)
		}
		if err := is.Remove(t.Context(), sub, h); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("removing %v where one server finds no key: %v", h, err)
		}
	}
	front.findNothing()
	for range 2 { // the second time all agree that there is none
		if err := is.Revoke(t.Context(), sub, cred.Handle); err != nil || len(c.keys(user)) > 0 {
			t.Errorf("once they agree: %v, and the keys are %+v", err, c.keys(user))
		}
	}
}

// Each way in which IAM can refuse has its class, and its answer gives nothing away.
func TestAnswers(t *testing.T) {
	t.Parallel()
	c := newCloud(t, shared(t))
	front := newFront(t, c.URL)
	is := c.open(c.config(front.URL, c.admin))
	_, sub := c.user()
	for _, tt := range []struct {
		status int
		code   string
		want   error
	}{
		{400, "Throttling", backends.ErrUnavailable},
		{409, "EntityTemporarilyUnmodifiable", backends.ErrUnavailable},
		{409, "ConcurrentModification", backends.ErrUnavailable},
		{500, "ServiceFailure", backends.ErrUnavailable},
		{409, "LimitExceeded", backends.ErrConflict},
		{404, "NoSuchEntity", backends.ErrInvalid},
		{400, "ValidationError", backends.ErrInvalid},
		{403, "AccessDenied", backends.ErrDenied},
		{403, "ExpiredToken", backends.ErrDenied},
		{403, "InvalidClientTokenId", backends.ErrDenied},
		{403, "SignatureDoesNotMatch", backends.ErrDenied},
	} {
		before := front.requests.Load()
		front.answer(tt.status, tt.code, "it says so")
		_, err := is.Issue(t.Context(), issuer.Request{Subject: sub})
		if !errors.Is(err, tt.want) || errors.Is(err, issuer.ErrNotSent) {
			t.Errorf("%s: got %v, want the class %q", tt.code, err, tt.want)
		}
		if sent := front.requests.Load() - before; tt.status >= 500 && sent != 1 {
			t.Errorf("%s: what may have made a key was sent %d times", tt.code, sent)
		}
	}
	front.pass()
	if _, err := is.Issue(t.Context(), issuer.Request{Subject: sub}); err != nil {
		t.Error(err)
	}
}

// The SDK corrects a clock that is wrong: the request was refused, and is sent again.
func TestWrongClock(t *testing.T) {
	t.Parallel()
	c := newCloud(t, shared(t))
	front := newFront(t, c.URL)
	is := c.open(c.config(front.URL, c.admin))
	user, sub := c.user()
	front.skew.Store(int64(time.Hour))
	if _, err := is.Issue(t.Context(), issuer.Request{Subject: sub}); err != nil {
		t.Errorf("with a clock that is an hour behind: %v", err)
	}
	if keys := c.keys(user); len(keys) != 1 {
		t.Errorf("made were %+v", keys)
	}
}
