package awssecrets_test

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/backends/awssecrets"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

var ref = backends.Ref{Tenant: backends.DefaultTenant, Name: "payments/stripe"}

// name is what ref is called in AWS by a driver of config.
const name = "keybroker/payments/stripe"

func config(endpoint, region string) awssecrets.Config {
	return awssecrets.Config{
		PathPrefix:     "keybroker/",
		VersionsPerDay: awssecrets.MaxVersionsPerDay,
		Conn: awsconn.Config{
			Region: region, Endpoint: endpoint,
			AccessKeyID: "AKIAKEYBROKERTESTING", SecretAccessKey: backendtest.Canary,
		},
	}
}

func open(t *testing.T, cfg awssecrets.Config) *awssecrets.Driver {
	t.Helper()
	log := &logBuffer{}
	d, err := awssecrets.Open(t.Context(), cfg, hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Trace}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		if strings.Contains(log.String(), backendtest.Canary) {
			t.Error("the log gives a secret away")
		}
	})
	return d
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var layouts = []string{"json", "string", "binary"}

func TestDriver(t *testing.T) {
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			s := motoserver.Shared(t)
			backendtest.Run(t, func(t *testing.T) backendtest.Harness {
				region := s.Region()
				cfg := config(s.URL, region)
				cfg.Layout = layout
				h := backendtest.Harness{
					Notes: true, Legal: legal, Writable: awssecrets.MaxVersionsPerDay,
					Seed: func(ref backends.Ref, v backends.Value) { seed(t, s.AWS(region), layout, ref, v) },
					Fill: func(names []string) { fill(t, s.AWS(region), names) },
					Delete: func(ref backends.Ref) {
						_, err := secretsmanager.NewFromConfig(s.AWS(region)).DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{
							SecretId: aws.String("keybroker/" + ref.Name), ForceDeleteWithoutRecovery: aws.Bool(true)})
						if err != nil {
							t.Fatal(err)
						}
					},
				}
				if layout == "json" {
					h.Proxy = faultproxy.New(t, s.URL)
					cfg.Conn.Endpoint = h.Proxy.URL
				} else { // differs in what is written, not in how
					h.Many, h.Writable = 1, 2
				}
				d := open(t, cfg)
				h.Driver = d
				h.Sized = func(n int) backends.Value { return sized(d.Capabilities(), n) }
				return h
			})
		})
	}
}

// TestDriverAsARole has every signature checked, a login that ends, and a Mount.
func TestDriverAsARole(t *testing.T) {
	s := motoserver.SharedGuarded(t)
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		key, region := s.User(t, motoserver.Everything), s.Region()
		cfg := config(s.URL, region)
		cfg.Conn.AccessKeyID, cfg.Conn.SecretAccessKey = backends.SecretString(key.ID), backends.SecretString(key.Secret)
		stranger := cfg
		cfg.Conn.AssumeRole = &awsconn.AssumeRole{RoleARN: s.Role(t, motoserver.Everything), Endpoint: s.URL}
		stranger.Conn.SecretAccessKey = backendtest.Canary
		return backendtest.Harness{
			Driver: backends.NewMount("us", open(t, cfg), backends.Options{}), Notes: true, Legal: legal, Many: 101, Writable: awssecrets.MaxVersionsPerDay,
			Stranger: func() backends.Driver { return open(t, stranger) },
			Revoke:   func() { s.EndSessions(t) },
		}
	})
}

var arnLike = regexp.MustCompile(`-[A-Za-z0-9]{6}$`)

func legal(name string) bool { return !arnLike.MatchString(name) }

// sized makes a value that takes n bytes in its layout.
func sized(c backends.Capabilities, n int) backends.Value {
	field, around := c.Field, 0
	if field == "" {
		field, around = "value", len(`{"value":""}`)
	}
	return backends.NewValue(map[string]string{field: backendtest.Canary + strings.Repeat("x", n-around-len(backendtest.Canary))})
}

// seed writes as somebody who knows nothing of keybroker.
func seed(t *testing.T, cfg aws.Config, layout string, ref backends.Ref, v backends.Value) {
	t.Helper()
	client := secretsmanager.NewFromConfig(cfg)
	in := &secretsmanager.CreateSecretInput{Name: aws.String("keybroker/" + ref.Name)}
	switch fields := v.Reveal(); layout {
	case "json":
		in.SecretString = aws.String(fmt.Sprintf("{ %q: %q,\n %q: %q }", "password", fields["password"], "username", fields["username"]))
	case "string":
		in.SecretString = aws.String(fields["value"])
	case "binary":
		in.SecretBinary = []byte(fields["value"])
	}
	if _, err := client.CreateSecret(t.Context(), in); err == nil {
		return
	}
	_, err := client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{
		SecretId: in.Name, SecretString: in.SecretString, SecretBinary: in.SecretBinary,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// fill makes a secret of each name.
func fill(t *testing.T, cfg aws.Config, names []string) {
	t.Helper()
	cfg.HTTPClient = &http.Client{} // keeps its connections, for the test
	client := secretsmanager.NewFromConfig(cfg)
	next := make(chan string)
	var makers sync.WaitGroup
	for range 4 {
		makers.Go(func() {
			for name := range next {
				_, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
					Name: aws.String("keybroker/" + name), SecretString: aws.String("{}"),
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, name := range names {
		next <- name
	}
	close(next)
	makers.Wait()
}
