package awsparams_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/backends/awsparams"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

var ref = backends.Ref{Tenant: backends.DefaultTenant, Name: "payments/stripe"}

// name is what ref is called in AWS by a driver of config.
const name = "/keybroker/payments/stripe"

func config(endpoint, region string) awsparams.Config {
	return awsparams.Config{
		PathPrefix: "keybroker/",
		Conn: awsconn.Config{
			Region: region, Endpoint: endpoint,
			AccessKeyID: "AKIAKEYBROKERTESTING", SecretAccessKey: backendtest.Canary,
		},
	}
}

// open makes a driver and wants no secret in what it logs.
func open(t *testing.T, cfg awsparams.Config) *awsparams.Driver {
	t.Helper()
	d, _ := openLogged(t, cfg)
	return d
}

func openLogged(t *testing.T, cfg awsparams.Config) (*awsparams.Driver, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	d, err := awsparams.Open(t.Context(), cfg, hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Trace}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		if strings.Contains(log.String(), backendtest.Canary) {
			t.Error("the log gives a secret away")
		}
	})
	return d, log
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

func TestDriver(t *testing.T) {
	s := motoserver.Shared(t)
	for of, change := range map[string]func(*awsparams.Config){
		"json":     func(*awsparams.Config) {},
		"string":   func(c *awsparams.Config) { c.Layout = "string" },
		"advanced": func(c *awsparams.Config) { c.Tier = "Advanced" },
	} {
		t.Run(of, func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backendtest.Harness {
				region := s.Region()
				cfg := config(s.URL, region)
				change(&cfg)
				h := backendtest.Harness{
					Notes: true, Legal: legal, Keeps: 100,
					Seed: func(ref backends.Ref, v backends.Value) { seed(t, s.AWS(region), "/keybroker/"+ref.Name, v) },
					Fill: func(names []string) { fill(t, s.AWS(region), names) },
					Delete: func(ref backends.Ref) {
						if _, err := ssm.NewFromConfig(s.AWS(region)).DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String("/keybroker/" + ref.Name)}); err != nil {
							t.Fatal(err)
						}
					},
				}
				if of == "json" {
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
	key, role := s.User(t, motoserver.Everything), s.Role(t, motoserver.Everything)
	limits := backends.Limits{}
	if os.Getenv("KEYBROKER_LONG") != "" {
		limits.Timeout = 10 * time.Minute // moto looks at all of 10,000 names to give ten
	}
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		region := s.Region()
		cfg := config(s.URL, region)
		cfg.Conn.AccessKeyID, cfg.Conn.SecretAccessKey = backends.SecretString(key.ID), backends.SecretString(key.Secret)
		stranger := cfg
		cfg.Conn.AssumeRole = &awsconn.AssumeRole{RoleARN: role, Endpoint: s.URL}
		stranger.Conn.SecretAccessKey = backendtest.Canary
		return backendtest.Harness{
			Driver: backends.NewMount("us", open(t, cfg), backends.Options{Limits: limits}), Notes: true, Legal: legal, Keeps: 100, Many: 30,
			Fill:     func(names []string) { fill(t, s.AWS(region), names) },
			Stranger: func() backends.Driver { return open(t, stranger) },
			Revoke:   func() { s.EndSessions(t) },
		}
	})
}

var plain = regexp.MustCompile(`^[a-zA-Z0-9_./-]+$`)

func legal(name string) bool { return plain.MatchString(name) && strings.Count(name, "/") <= 13 }

// sized makes a value that takes n bytes in its layout.
func sized(c backends.Capabilities, n int) backends.Value {
	field, around := c.Field, 0
	if field == "" {
		field, around = "value", len(`{"value":""}`)
	}
	return backends.NewValue(map[string]string{field: backendtest.Canary + strings.Repeat("x", n-around-len(backendtest.Canary))})
}

// seed writes as somebody who knows nothing of keybroker.
func seed(t *testing.T, cfg aws.Config, name string, v backends.Value) {
	t.Helper()
	fields := v.Reveal()
	text, one := fields["value"]
	if !one {
		text = fmt.Sprintf("{ %q: %q,\n %q: %q }", "password", fields["password"], "username", fields["username"])
	}
	put(t, ssm.NewFromConfig(cfg), &ssm.PutParameterInput{Name: &name, Value: &text, Overwrite: aws.Bool(true)})
}

// fill makes a secret of each name.
func fill(t *testing.T, cfg aws.Config, names []string) {
	t.Helper()
	transport := cleanhttp.DefaultPooledTransport()
	defer transport.CloseIdleConnections()
	cfg.HTTPClient = &http.Client{Transport: awsconn.InMemory(transport)}
	client := ssm.NewFromConfig(cfg)
	for _, name := range names {
		put(t, client, &ssm.PutParameterInput{Name: aws.String("/keybroker/" + name), Value: aws.String("{}")})
	}
}

// put writes past the driver; what is not said is a SecureString.
func put(t *testing.T, client *ssm.Client, in *ssm.PutParameterInput) {
	t.Helper()
	if in.Type == "" {
		in.Type = types.ParameterTypeSecureString
	}
	if _, err := client.PutParameter(t.Context(), in); err != nil {
		t.Fatal(err)
	}
}
