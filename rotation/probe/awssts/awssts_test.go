package awssts_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/outbound/outboundtest"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/awssts"
	"github.com/keybroker/keybroker/rotation/probe/probetest"
)

func value(key motoserver.Key) backends.Value {
	return backends.NewValue(map[string]string{"access_key_id": key.ID, "secret_access_key": key.Secret})
}

func open(t *testing.T, cfg awssts.Config) *awssts.Probe {
	t.Helper()
	if cfg.Region == "" {
		cfg.Region = motoserver.HomeRegion
	}
	cfg.AllowPrivateNetwork = true
	p, err := awssts.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// counted counts what comes to the proxy before moto.
type counted struct {
	mu          sync.Mutex
	connections map[string]bool
	marked      int
}

func (c *counted) see(r *http.Request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connections[r.RemoteAddr] = true
	if r.UserAgent() == outbound.ProbeUserAgent {
		c.marked++
	}
	return false
}

func (c *counted) read(n func() int) func() int {
	return func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return n()
	}
}

// A wrong secret for a key that lives, and a key of another user, are not rejected: see
// the package's comment.
func TestProbe(t *testing.T) {
	outboundtest.Names(t, map[string][]string{"sts.test": {"127.0.0.1"}})
	moto := motoserver.StartGuarded(t)
	probetest.Run(t, func(t *testing.T) probetest.Harness {
		good, canary, bad, other := moto.User(t, motoserver.Everything), moto.User(t, nothing), moto.User(t, nothing), moto.User(t, nothing)
		moto.DeleteKey(t, bad)
		front := faultproxy.New(t, moto.URL)
		at, err := url.Parse(front.URL)
		if err != nil {
			t.Fatal(err)
		}
		seen := &counted{connections: map[string]bool{}}
		watch := faultproxy.Rule{Match: seen.see}
		front.Set(watch)
		set := func(f faultproxy.Fault) func(bool) {
			return func(on bool) {
				front.Set(watch)
				if on {
					front.Set(watch, faultproxy.Rule{Fault: f})
				}
			}
		}
		faults := probetest.HTTPFaults(front)
		faults["forbidden by others"] = set(faultproxy.Status(http.StatusForbidden))
		return probetest.Harness{
			Probe: open(t, awssts.Config{Endpoint: "http://sts.test:" + at.Port(), Canary: map[string]backends.SecretString{
				"access_key_id": backends.SecretString(canary.ID), "secret_access_key": backends.SecretString(canary.Secret)}}),
			Good: value(good), Bad: value(bad), Canary: value(canary),
			Rejected: map[string]backends.Value{
				"of nobody": value(motoserver.Key{ID: "AKIAKEYBROKERNOBODY0", Secret: "canary-77c1d2"}),
			},
			Undecided: map[string]backends.Value{
				"another's secret": value(motoserver.Key{ID: good.ID, Secret: other.Secret}),
				"no secret":        backends.NewValue(map[string]string{"access_key_id": good.ID}),
				"a broken line":    value(motoserver.Key{ID: good.ID + "\n", Secret: good.Secret}),
			},
			Revoke: func() { moto.DeleteKey(t, good) },
			Faults: faults,
			Hang:   set(faultproxy.Latency(time.Hour)),
			Broken: map[string]probe.Probe{
				"no TLS":         open(t, awssts.Config{Endpoint: "https://sts.test:" + at.Port()}),
				"nobody listens": open(t, awssts.Config{Endpoint: "http://sts.test:1"}),
				"no such host":   open(t, awssts.Config{Endpoint: "http://nowhere.test:" + at.Port()}),
			},
			Addresses:   []string{"127.0.0.1:" + at.Port()},
			Connections: seen.read(func() int { return len(seen.connections) }),
			Attempts:    front.Requests,
			Marked:      seen.read(func() int { return seen.marked }),
		}
	})
}

const nothing = `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}`

// What a policy denies to a user does not touch GetCallerIdentity, and an inactive key
// is as dead as one that was deleted: AWS refuses it, and here moto is made to.
func TestInactiveKeysAreRejected(t *testing.T) {
	moto := motoserver.StartGuarded(t)
	p := open(t, awssts.Config{Endpoint: moto.URL})
	key := moto.User(t, nothing)
	if r := p.Try(t.Context(), probe.Try{Value: value(key)}); r.Verdict != probe.Accepted {
		t.Fatalf("denied everything: %+v", r)
	}
	user := strings.TrimPrefix(p.Try(t.Context(), probe.Try{Value: value(key)}).Detail, "status 200, arn:aws:iam::123456789012:user/")
	_, err := iam.NewFromConfig(moto.AWS(motoserver.HomeRegion)).UpdateAccessKey(t.Context(), &iam.UpdateAccessKeyInput{
		UserName: &user, AccessKeyId: &key.ID, Status: "Inactive"})
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Try(t.Context(), probe.Try{Value: value(key)}); r.Verdict != probe.Accepted {
		t.Errorf("moto by itself refuses inactive keys now: %+v", r)
	}
	moto.RefuseInactive(t)
	if r := p.Try(t.Context(), probe.Try{Value: value(key)}); r.Verdict != probe.Rejected {
		t.Errorf("inactive: %+v", r)
	}
}

// Only whose keys are expected are accepted.
func TestExpectedIdentity(t *testing.T) {
	moto := motoserver.SharedGuarded(t)
	key := moto.User(t, nothing)
	who, err := sts.NewFromConfig(moto.AWS(motoserver.HomeRegion)).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil {
		t.Fatal(err)
	}
	account, arn := aws.ToString(who.Account), aws.ToString(who.Arn)
	for _, tt := range []struct {
		cfg  awssts.Config
		want probe.Verdict
	}{
		{awssts.Config{Account: account}, probe.Accepted},
		{awssts.Config{Account: "999999999999"}, probe.Inconclusive},
		{awssts.Config{ARN: arn}, probe.Inconclusive}, // the administrator's
	} {
		tt.cfg.Endpoint = moto.URL
		if r := open(t, tt.cfg).Try(t.Context(), probe.Try{Value: value(key)}); r.Verdict != tt.want {
			t.Errorf("%+v: %+v, want %s", tt.cfg, r, tt.want)
		}
	}
}

// Every answer but the two that tell about the key is inconclusive, and none is shown
// with what it quotes.
func TestAnswers(t *testing.T) {
	const canary = "canary-1b90ee0152"
	var status int
	var body string
	var date time.Time
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", date.UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	defer srv.Close()
	p := open(t, awssts.Config{Endpoint: srv.URL})
	failed := func(code string) string {
		return fmt.Sprintf(`<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code>`+
			`<Message>what was sent is %s</Message></Error><RequestId>1</RequestId></ErrorResponse>`, code, canary)
	}
	for _, tt := range []struct {
		status int
		body   string
		behind time.Duration
		want   probe.Verdict
		detail string
	}{
		{403, failed("InvalidClientTokenId"), 0, probe.Rejected, "status 403 InvalidClientTokenId"},
		{400, failed("InvalidClientTokenId"), 0, probe.Inconclusive, "InvalidClientTokenId"},
		{403, failed("SignatureDoesNotMatch"), 0, probe.Inconclusive, "SignatureDoesNotMatch"},
		{403, failed("SignatureDoesNotMatch"), time.Hour, probe.Inconclusive, "clock differs from AWS's by 1h0m"},
		{400, failed("RequestExpired"), -time.Hour, probe.Inconclusive, "clock differs"},
		{403, failed("ExpiredToken"), 0, probe.Inconclusive, "ExpiredToken"},
		{400, failed("Throttling"), 0, probe.Inconclusive, "Throttling"},
		{403, failed("AccessDenied"), 0, probe.Inconclusive, "AccessDenied"},
		{403, failed("RegionDisabledException"), 0, probe.Inconclusive, "RegionDisabled"},
		{500, failed("InternalFailure"), 0, probe.Inconclusive, "InternalFailure"},
		{403, failed(strings.ReplaceAll(canary, "-", "")), 0, probe.Inconclusive, "status 403"},
		{403, failed("See " + canary), 0, probe.Inconclusive, "an unknown code"},
		{403, "<html>" + canary, 0, probe.Inconclusive, "status 403"},
		{200, "<html>" + canary, 0, probe.Inconclusive, "status 200"},
		{200, "<GetCallerIdentityResponse/>", 0, probe.Inconclusive, "status 200"},
		{302, "", 0, probe.Inconclusive, "status 302"},
	} {
		status, body, date = tt.status, tt.body, time.Now().Add(tt.behind)
		r := p.Try(t.Context(), probe.Try{Value: value(motoserver.Key{ID: "AKIAKEYBROKERTESTING", Secret: canary})})
		if r.Verdict != tt.want || !strings.Contains(r.Detail, tt.detail) || strings.Contains(r.Detail, canary) {
			t.Errorf("%d %s: %+v, want %s with %q", tt.status, tt.body, r, tt.want, tt.detail)
		}
	}
}

func TestValidateReportsEveryMistake(t *testing.T) {
	none := time.Duration(0)
	err := awssts.Config{
		Region: "Frankfurt", Endpoint: "http://127.0.0.1:1", Account: "12", ARN: "arn:aws:iam::123456789012:role/ci",
		Canary: map[string]backends.SecretString{"key": "canary-40cc"}, Timeout: &none,
	}.Validate()
	if !errors.Is(err, backends.ErrInvalid) {
		t.Fatal(err)
	}
	for _, name := range []string{"region", "endpoint", "account", "arn", "canary", "timeout"} {
		if !strings.Contains(err.Error(), "invalid: "+name) {
			t.Errorf("%s is not told: %v", name, err)
		}
	}
	for name, cfg := range map[string]awssts.Config{
		"another account": {Region: "eu-central-1", Account: "999999999999", ARN: "arn:aws:iam::123456789012:user/ci"},
		"a path":          {Region: "eu-central-1", Endpoint: "https://sts.example/v1"},
		"credentials":     {Region: "eu-central-1", Endpoint: "https://a:b@sts.example"},
		"no URL":          {Region: "eu-central-1", Endpoint: "sts"},
	} {
		if _, err := awssts.New(cfg); !errors.Is(err, backends.ErrInvalid) || strings.Contains(fmt.Sprint(err), "a:b") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for region, want := range map[string]string{
		"eu-central-1": "sts.eu-central-1.amazonaws.com:443", "us-east-1": "sts.us-east-1.amazonaws.com:443", "cn-north-1": "sts.cn-north-1.amazonaws.com.cn:443",
	} {
		p, err := awssts.New(awssts.Config{Region: region})
		if err != nil || !strings.HasSuffix(p.Scope(), want) {
			t.Errorf("in %s it is %v, %v", region, p, err)
		}
	}
}
