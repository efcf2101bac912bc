package daemon_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// overTLS is a configuration with a certificate; LISTENER is for more of its block.
func overTLS(t testing.TB, listener string) *site {
	s := newSite(t, "")
	s.hcl = `
listener "tcp" {
  address       = "` + s.addr + `"
  tls_cert_file = "cert.pem"
  tls_key_file  = "key.pem"
` + listener + `
}
backend "local" "embedded" {}
`
	s.writeCertificate(1)
	return s
}

// shake makes a TLS connection as cfg says, and returns its state.
func (s *site) shake(cfg *tls.Config) (tls.ConnectionState, error) {
	cfg.InsecureSkipVerify = true // whose certificate it is is looked at
	conn, err := tls.Dial("tcp", s.addr, cfg)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	return conn.ConnectionState(), nil
}

func TestTLSVersions(t *testing.T) {
	t.Parallel()
	weak := &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}
	for name, test := range map[string]struct {
		listener string
		twelve   bool
	}{
		"by default":   {"", false},
		"when refused": {`tls_min_version = "1.3"`, false},
		"when asked":   {`tls_min_version = "1.2"`, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := overTLS(t, test.listener)
			s.start()
			state, err := s.shake(&tls.Config{NextProtos: []string{"h2", "http/1.1"}})
			if err != nil || state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != "h2" {
				t.Errorf("a modern client: %v, version %x, %s", err, state.Version, state.NegotiatedProtocol)
			}
			state, err = s.shake(&tls.Config{MaxVersion: tls.VersionTLS12})
			if (err == nil) != test.twelve || err == nil && state.Version != tls.VersionTLS12 {
				t.Errorf("TLS 1.2: %v, version %x", err, state.Version)
			}
			if _, err := s.shake(weak.Clone()); err == nil {
				t.Error("a suite without authenticated encryption is taken")
			}
			if _, err := s.shake(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
				t.Error("TLS 1.1 is taken")
			}
		})
	}
}

// TestCertificateIsReplacedWhenItsFilesChange: a renewed one needs nothing, and one
// that cannot be used harms nobody.
func TestCertificateIsReplacedWhenItsFilesChange(t *testing.T) {
	t.Parallel()
	s := overTLS(t, "")
	var d *daemon.Daemon
	s.adjust = func(o *daemon.Options) { o.LookForCertificates(20 * time.Millisecond) }
	s.opened = func(opened *daemon.Daemon) { d = opened }
	s.start()
	shows := func() *big.Int {
		state, err := s.shake(&tls.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber
	}
	s.writeCertificate(2)
	eventually(t, "certificate 2", func() bool { return shows().Int64() == 2 })
	key := s.read("key.pem")
	s.writeCertificate(3)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "certificate 3", func() bool { return shows().Int64() == 3 })
	problem := func() string {
		_, problem := d.CertificateState()
		if problem == nil {
			return ""
		}
		return problem.Error()
	}
	write("key.pem", key) // of certificate 2
	eventually(t, "the mismatch to be told", func() bool { return problem() != "" })
	if got := shows().Int64(); got != 3 {
		t.Errorf("it shows certificate %d", got)
	}
	if !strings.Contains(s.log.String(), "the one of before stays in use") {
		t.Error("the log does not tell of the mismatch")
	}
	if err := os.Remove(filepath.Join(s.dir, "cert.pem")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the missing file to be told", func() bool { return strings.Contains(problem(), "cert.pem") })
	metrics := s.metrics()
	if !strings.Contains(metrics, "keybroker_certificate_last_reload_successful 0") {
		t.Error("the metric does not tell of it")
	}
	days := regexp.MustCompile(`(?m)^keybroker_certificate_days_left (\S+)$`).FindStringSubmatch(metrics)
	if days == nil {
		t.Fatal("there is no metric of the days left")
	}
	if left, err := strconv.ParseFloat(days[1], 64); err != nil || left <= 0 || left > 0.05 { // it is made for an hour
		t.Errorf("%s days left", days[1])
	}
	if got := shows().Int64(); got != 3 {
		t.Errorf("it shows certificate %d", got)
	}
	s.writeCertificate(4)
	eventually(t, "certificate 4", func() bool { return shows().Int64() == 4 && problem() == "" })
	for _, secret := range []string{key, s.read("key.pem")} {
		if strings.Contains(s.log.String(), strings.Split(secret, "\n")[1]) {
			t.Error("a key is in the log")
		}
	}
}

// metrics are those of the API.
func (s *site) metrics() string {
	s.t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "https://"+s.addr+"/metrics", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.rootToken())
	resp, err := (&http.Client{Transport: tr}).Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// TestClientsAreAskedForCertificatesWhereThatMeansSomething, and a reload is enough.
func TestClientsAreAskedForCertificatesWhereThatMeansSomething(t *testing.T) {
	t.Parallel()
	s := overTLS(t, "")
	plain := s.hcl
	n := s.start()
	reload := func() {
		if err := os.WriteFile(filepath.Join(s.dir, "trusted.pem"), []byte(s.read("cert.pem")), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := client.New(n.addr, s.rootToken(), client.Options{CAFile: filepath.Join(s.dir, "trusted.pem")})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Reload(t.Context(), client.ReloadRequest{}); err != nil {
			t.Fatal(err, problemsOf(err))
		}
	}
	asked := func() (is bool) {
		_, err := s.shake(&tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			is = true
			return &tls.Certificate{}, nil // none
		}})
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		return is
	}
	if asked() {
		t.Error("asked for, although nobody is known by one")
	}
	if err := os.WriteFile(filepath.Join(s.dir, "ca.pem"), certtest.New(t, "mesh", nil).PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	s.hcl = plain + `
auth "mtls" "mesh" {
  ca_file = "ca.pem"
}
`
	if reload(); !asked() {
		t.Error("not asked for")
	}
	s.hcl = plain
	if reload(); asked() {
		t.Error("still asked for")
	}
}

// TestLimitsOfTheConfiguration hold, and a reload changes them.
func TestLimitsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	free := s.hcl
	n := s.start()
	s.hcl = replaced(t, free, "listener \"tcp\" {", `listener "tcp" {
  trusted_proxies  = ["127.0.0.1/32"]
  max_request_size = "4KiB"
  limits {
    per_address {
      requests_per_minute = 1
      burst               = 4
    }
  }`)
	n.reload(t)
	from := func(address string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.addr+"/api/v1/tokens", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+s.rootToken())
		r.Header.Set("X-Forwarded-For", address)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for i, want := range []int{200, 200, 200, 200, 429} {
		if got := from("203.0.113.77"); got != want {
			t.Errorf("request %d: %d, want %d", i, got, want)
		}
	}
	if got := from("203.0.113.78"); got != 200 {
		t.Errorf("another address: %d", got)
	}
	eventually(t, "the address in the audit log", func() bool { return strings.Contains(s.read("data/audit.jsonl"), `"203.0.113.77"`) })
	_, err := n.CreateToken(t.Context(), client.CreateTokenRequest{Name: strings.Repeat("x", 5000), Policies: []string{"reader"}})
	if client.Status(err) != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %v", err)
	}
	s.hcl = free
	n.reload(t)
	eventually(t, "the address of this test, which had nothing left either", func() bool { return from("203.0.113.79") == 200 })
	for range 5 {
		if got := from("203.0.113.79"); got != 200 {
			t.Errorf("without limits: %d", got)
		}
	}
	eventually(t, "who had nothing left to have some of the new limit", func() bool { return from("203.0.113.77") == 200 })
}

// TestWhoeverHasNoCredentialsDoesNotFillTheAuditLog, at what contains neither, and stops
// nobody who has.
func TestWhoeverHasNoCredentialsDoesNotFillTheAuditLog(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	n.done(t, "app/key")
	const attempts = 700
	statuses := map[int]int{}
	for i := range attempts {
		method, path := "POST", "/api/v1/secrets/app/key/emergency"
		if i%2 == 0 {
			method, path = "DELETE", "/api/v1/tokens/self"
		}
		status, _ := s.get(method, path, "")
		statuses[status]++
	}
	if statuses[401] < 100 || statuses[429] < 100 || statuses[401]+statuses[429] != attempts {
		t.Errorf("answered by %v", statuses)
	}
	if _, err := n.Emergency(t.Context(), "app/key", client.EmergencyRequest{Reason: "leak"}); err != nil {
		t.Errorf("who has credentials: %v", err)
	}
	n.stop()
	apart, summed := 0, 0
	for line := range strings.Lines(s.read("data/audit.jsonl")) {
		var rec struct {
			Action, Actor string
			Detail        map[string]string
		}
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatal(err)
		}
		switch {
		case rec.Action == "auth.token" && rec.Actor == "anonymous":
			apart++
		case rec.Action == "auth.refused":
			of, err := strconv.Atoi(rec.Detail["attempts"])
			if err != nil || rec.Detail["network"] != "127.0.0.1/32" {
				t.Errorf("%+v", rec)
			}
			summed += of
		}
	}
	if apart+summed != attempts || apart > attempts/10 {
		t.Errorf("%d records, and %d attempts in sums", apart, summed)
	}
}
