package sink_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/audit/sink"
)

var update = flag.Bool("update", false, "write the golden files anew")

const canary = "CANARY-t0ken"

// lines are a request, an answer that failed, and a step, and a checkpoint.
func lines(t *testing.T) []audit.Line {
	t.Helper()
	var out []audit.Line
	for _, raw := range []string{
		`{"index":0,"prev":"","time":"2026-01-02T03:04:05.678901Z","kind":"request","request":"req-1","tenant":"acme","actor":"tok_1","role":"ci","method":"token","address":"192.0.2.7","action":"secret.read","path":"app/key","outcome":"ok","detail":{"name":"ci"},"capability":"read","policy":"readers","rule":"app/*","secret":"acme:app/key","version":3,"hashes":{"field.key":"hmac-sha256:00ff"}}`,
		`{"index":1,"prev":"AAAA","time":"2026-01-02T03:04:06Z","kind":"response","actor":"anonymous","address":"invalid IP","action":"auth.token","path":"sys/auth","outcome":"denied"}`,
		`{"index":2,"prev":"BBBB","time":"2026-01-02T03:04:07Z","kind":"event","tenant":"acme","actor":"keybroker","action":"retirement.revoke","path":"app/key","outcome":"ok","detail":{"version":"2"},"seq":9}`,
		`{"index":3,"prev":"CCCC","kind":"checkpoint","checkpoint":"keybroker/audit/n1\n3\n…\n"}`,
	} {
		if len(out) > 0 { // they follow from each other
			_, rest, _ := strings.Cut(raw, `"prev":"`)
			_, rest, _ = strings.Cut(rest, `"`)
			raw = fmt.Sprintf(`{"index":%d,"prev":"%s"%s`, len(out), out[len(out)-1].Leaf(), rest)
		}
		ln, err := audit.ParseLine([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ln)
	}
	return out
}

// exchange is what a receiver was sent.
type exchange struct {
	path   string
	header http.Header
	body   string
}

// receiver answers each request with the next of the answers, the last one for ever.
func receiver(t *testing.T, answers ...func(http.ResponseWriter)) (url string, got chan exchange) {
	t.Helper()
	got = make(chan exchange, 100)
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- exchange{r.Method + " " + r.URL.RequestURI(), r.Header, string(body)}
		if n < len(answers) {
			answers[n](w)
			n = min(n+1, len(answers)-1)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, got
}

func text(status int, body string, header ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func open(t *testing.T, c sink.Config) audit.Sink {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := c.Open("n1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func send(t *testing.T, s audit.Sink) {
	t.Helper()
	if err := s.Send(t.Context(), lines(t)); err != nil {
		t.Fatal(err)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != got {
		t.Errorf("%s (%v):\n%s", name, err, got)
	}
}

func TestHTTP(t *testing.T) {
	for _, format := range []string{"jsonl", "ocsf", "ecs"} {
		url, got := receiver(t)
		s := open(t, sink.HTTP{URL: url + "/in", Format: format, AllowPrivate: true, Headers: map[string]backends.SecretString{"X-Key": canary}})
		send(t, s)
		x := <-got
		if x.path != "POST /in" || x.header.Get("X-Key") != canary || x.header.Get("Content-Type") != "application/x-ndjson" || !s.Confirms() {
			t.Errorf("%+v", x)
		}
		golden(t, format+".ndjson", x.body)
	}
}

// TestOCSF checks what the class asks for: https://schema.ocsf.io/1.3.0/classes/api_activity
func TestOCSF(t *testing.T) {
	url, got := receiver(t)
	send(t, open(t, sink.HTTP{URL: url, Format: "ocsf", AllowPrivate: true}))
	for line := range strings.Lines((<-got).body) {
		var e struct {
			ClassUID   int `json:"class_uid"`
			TypeUID    int `json:"type_uid"`
			ActivityID int `json:"activity_id"`
			Category   int `json:"category_uid"`
			SeverityID int `json:"severity_id"`
			Time       int64
			Actor      struct{ User struct{ UID string } }
			API        struct{ Operation string }
			Src        struct{ IP, Name string } `json:"src_endpoint"`
			Metadata   struct {
				Version string
				Product struct {
					VendorName string `json:"vendor_name"`
				}
			}
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.ClassUID != 6003 || e.Category != 6 || e.TypeUID != 600300+e.ActivityID || e.SeverityID == 0 || e.Time < 1700000000000 || e.Actor.User.UID == "" ||
			e.API.Operation == "" || e.Src.IP+e.Src.Name == "" || e.Metadata.Version == "" || e.Metadata.Product.VendorName == "" {
			t.Errorf("%s", line)
		}
	}
}

func TestSplunk(t *testing.T) {
	url, got := receiver(t, text(200, `{"text":"Success","code":0}`))
	send(t, open(t, sink.Splunk{URL: url, Token: canary, Index: "main", AllowPrivate: true}))
	x := <-got
	if x.path != "POST /services/collector/event" || x.header.Get("Authorization") != "Splunk "+canary {
		t.Errorf("%+v", x)
	}
	events := 0
	for d := json.NewDecoder(strings.NewReader(x.body)); d.More(); events++ {
		var e struct {
			Time               float64
			Host, Index        string
			Source, SourceType string
			Event              map[string]any
		}
		if err := d.Decode(&e); err != nil || e.Time < 1.7e9 || e.Host != "n1" || e.Index != "main" || e.SourceType != "keybroker:audit" || e.Event["action"] == nil {
			t.Errorf("%+v (%v)", e, err)
		}
	}
	if events != 3 {
		t.Errorf("%d events", events)
	}
}

func TestElasticsearch(t *testing.T) {
	taken := `{"errors":true,"items":[{"create":{"status":201}},{"create":{"status":409,"error":{"type":"version_conflict_engine_exception"}}},{"create":{"status":201}}]}`
	full := `{"errors":true,"items":[{"create":{"status":201}},{"create":{"status":429,"error":{"type":"es_rejected_execution_exception"}}}]}`
	url, got := receiver(t, text(200, full), text(200, `{"errors":true,"items":[{"create":{"status":400,"error":{"type":"mapper_parsing_exception"}}}]}`), text(200, taken), text(200, `<html>`))
	s := open(t, sink.Elasticsearch{URL: url, Index: "audit", APIKey: canary, AllowPrivate: true})
	if err := s.Send(t.Context(), lines(t)); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("a document that was refused for now: %v", err)
	}
	if err := s.Send(t.Context(), lines(t)); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "mapper_parsing_exception") {
		t.Errorf("a document that was refused: %v", err)
	}
	send(t, s) // some are there already
	if err := s.Send(t.Context(), lines(t)); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("something else answers: %v", err)
	}
	x := <-got
	body := strings.Split(x.body, "\n")
	if !strings.HasPrefix(x.path, "POST /_bulk?") || x.header.Get("Authorization") != "ApiKey "+canary || len(body) != 7 || body[0] != `{"create":{"_id":"n1-0-fed32e39c109e8a3","_index":"audit"}}` {
		t.Errorf("%+v", x)
	}
	url, got = receiver(t, text(200, `{"errors":false}`))
	send(t, open(t, sink.Elasticsearch{URL: url, Username: "u", Password: canary, AllowPrivate: true}))
	if x := <-got; x.header.Get("Authorization") != "Basic dTpDQU5BUlktdDBrZW4=" || !strings.Contains(x.body, `"_index":"logs-keybroker.audit-default"`) {
		t.Errorf("%+v", x)
	}
}

func TestWitness(t *testing.T) {
	url, got := receiver(t)
	s := open(t, sink.Witness{URL: url + "/witness", AllowPrivate: true})
	send(t, s)
	if x := <-got; x.path != "POST /witness" || x.body != "keybroker/audit/n1\n3\n…\n" {
		t.Errorf("%+v", x)
	}
	if err := s.Send(t.Context(), lines(t)[:2]); err != nil || len(got) != 0 || s.Confirms() {
		t.Errorf("it is sent more than checkpoints (%v), or relied on", err)
	}
}

// TestRefusals has every receiver fail in every way: the class says what to do, the text
// has neither the credential nor what was answered.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		answer func(http.ResponseWriter)
		class  error
		after  time.Duration
	}{
		{text(503, canary, "Retry-After", "7"), backends.ErrUnavailable, 7 * time.Second},
		{text(429, canary, "Retry-After", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)), backends.ErrUnavailable, time.Minute},
		{text(500, canary), backends.ErrUnavailable, 0},
		{text(302, canary, "Location", "/"+canary), backends.ErrUnavailable, 0},
		{text(401, canary), backends.ErrDenied, 0},
		{text(403, canary), backends.ErrDenied, 0},
		{text(400, canary), backends.ErrInvalid, 0},
	} {
		url, _ := receiver(t, c.answer)
		key := map[string]backends.SecretString{"Authorization": canary}
		for name, cfg := range map[string]sink.Config{
			"http":          sink.HTTP{URL: url, Headers: key, AllowPrivate: true},
			"witness":       sink.Witness{URL: url, Headers: key, AllowPrivate: true},
			"splunk":        sink.Splunk{URL: url, Token: canary, AllowPrivate: true},
			"elasticsearch": sink.Elasticsearch{URL: url, APIKey: canary, AllowPrivate: true},
		} {
			err := open(t, cfg).Send(t.Context(), lines(t))
			retry, _ := errors.AsType[*audit.RetryError](err)
			if !errors.Is(err, c.class) || strings.Contains(err.Error(), canary) || (retry != nil) != (c.after > 0) {
				t.Errorf("%s: %v", name, err)
			}
			if retry != nil && (retry.After > c.after || retry.After < c.after-5*time.Second) {
				t.Errorf("%s: again after %s", name, retry.After)
			}
		}
	}
}

// TestTheGuard makes sure that no sink reaches what outbound traffic must not.
func TestTheGuard(t *testing.T) {
	url, got := receiver(t)
	address := strings.TrimPrefix(url, "http://")
	for name, cfg := range map[string]sink.Config{
		"http":          sink.HTTP{URL: url},
		"witness":       sink.Witness{URL: url},
		"splunk":        sink.Splunk{URL: url, Token: "t"},
		"elasticsearch": sink.Elasticsearch{URL: url},
		"syslog tcp":    sink.Syslog{Address: "tcp://" + address},
		"syslog udp":    sink.Syslog{Address: "udp://" + address},
		"syslog tls":    sink.Syslog{Address: "tls://" + address},
	} {
		if err := open(t, cfg).Send(t.Context(), lines(t)); !errors.Is(err, backends.ErrDenied) || len(got) > 0 {
			t.Errorf("%s reaches loopback: %v", name, err)
		}
	}
}

// rfc5424 is the syntax of RFC 5424, section 6, with the SD-ID that is used.
var rfc5424 = regexp.MustCompile(`^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) (-|\[meta sequenceId="[1-9]\d*"\]) ` + "\xef\xbb\xbf(.*)$")

func checkSyslog(t *testing.T, got []string) {
	t.Helper()
	all := lines(t)
	if len(got) != 3 {
		t.Fatalf("%d messages: %q", len(got), got)
	}
	for i, priority := range []string{"110", "108", "110"} { // facility 13; informational, warning
		m := rfc5424.FindStringSubmatch(got[i])
		if m == nil || m[1] != priority || m[4] != "keybroker" || m[6] != all[i].Action || m[7] != fmt.Sprintf(`[meta sequenceId="%d"]`, i+1) || m[8] != string(all[i].Raw) {
			t.Errorf("%q: %q", got[i], m)
		}
	}
}

func TestSyslogDatagrams(t *testing.T) {
	for _, network := range []string{"udp", "unixgram"} {
		at := "127.0.0.1:0"
		if network == "unixgram" {
			at = filepath.Join(t.TempDir(), "log")
		}
		conn, err := net.ListenPacket(network, at)
		if err != nil {
			t.Fatal(err)
		}
		address := "udp://" + conn.LocalAddr().String()
		if network == "unixgram" {
			address = "unix://" + at
		}
		send(t, open(t, sink.Syslog{Address: address, AllowPrivate: true}))
		var got []string
		buf := make([]byte, 64<<10)
		for range 3 {
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(buf[:n]))
		}
		checkSyslog(t, got)
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSyslogOverTCP reads counted octets (RFC 6587, 3.4.1), and hangs up once.
func TestSyslogOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := open(t, sink.Syslog{Address: "tcp://" + l.Addr().String(), AllowPrivate: true})
	for range 2 {
		send(t, s)
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		var got []string
		for range 3 {
			digits, err := r.ReadString(' ')
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.Atoi(strings.TrimSpace(digits))
			if err != nil {
				t.Fatal(err)
			}
			msg := make([]byte, n)
			if _, err := io.ReadFull(r, msg); err != nil {
				t.Fatal(err)
			}
			got = append(got, string(msg))
		}
		checkSyslog(t, got)
		if err := conn.Close(); err != nil { // the sink finds out before it sends again
			t.Fatal(err)
		}
	}
	if s.Confirms() {
		t.Error("syslog confirms nothing")
	}
}

// TestFile writes a copy over restarts, repetitions and a torn line.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy.jsonl")
	cfg := sink.File{Path: path}
	all := lines(t)
	s := open(t, cfg)
	for range 2 { // at least once, and it is there once
		if err := s.Send(t.Context(), all[:2]); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"index":2,"pr`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	if err := s.Send(t.Context(), all[1:]); err != nil {
		t.Fatal(err)
	}
	direct := all[0]
	direct.Index = -1
	if err := s.Send(t.Context(), []audit.Line{direct}); err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, ln := range all {
		want += string(ln.Raw) + "\n"
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("the copy (%v):\n%s", err, got)
	}
	if beside, err := os.ReadFile(path + ".direct"); err != nil || string(beside) != string(direct.Raw)+"\n" {
		t.Errorf("beside it: %s (%v)", beside, err)
	}
}

func TestFilesAreRotated(t *testing.T) {
	dir := t.TempDir()
	s := open(t, sink.File{Path: filepath.Join(dir, "copy.jsonl"), MaxSize: "1KiB", Keep: 2})
	base := lines(t)[1]
	for n := range 60 {
		ln := base
		ln.Index = int64(n)
		ln.Raw = []byte(strings.Replace(string(base.Raw), `"index":1,`, fmt.Sprintf(`"index":%d,`, n), 1))
		if err := s.Send(t.Context(), []audit.Line{ln}); err != nil {
			t.Fatal(err)
		}
	}
	names, err := filepath.Glob(filepath.Join(dir, "copy*"))
	if err != nil || len(names) != 3 {
		t.Errorf("%v (%v)", names, err)
	}
}

func TestMistakes(t *testing.T) {
	for want, cfg := range map[string]sink.Config{
		"url is no address":         sink.HTTP{URL: "example.com"},
		"url has a user":            sink.Witness{URL: "https://me:" + canary + "@example.com"},
		`format is "xml"`:           sink.HTTP{URL: "https://example.com", Format: "xml"},
		"token is empty":            sink.Splunk{URL: "https://example.com"},
		"username and password":     sink.Elasticsearch{URL: "https://example.com", Username: "u"},
		"given together":            sink.Elasticsearch{URL: "https://example.com", Username: "u", Password: "p", APIKey: "k"},
		"address is none of syslog": sink.Syslog{Address: "example.com:514"},
		"facility is 24":            sink.Syslog{Address: "udp://example.com:514", Facility: 24},
		"is not absolute":           sink.File{Path: "copy"},
		`max_size "10MB" is no`:     sink.File{Path: "/copy", MaxSize: "10MB"},
		"keep is 3":                 sink.File{Path: "/copy", Keep: 3},
	} {
		err := cfg.Validate()
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestTheCopyOfAnotherLog sends what a node sends that has lost its data_dir.
func TestTheCopyOfAnotherLog(t *testing.T) {
	dir := t.TempDir()
	cfg := sink.File{Path: filepath.Join(dir, "copy.jsonl")}
	s := open(t, cfg)
	send(t, s)
	old, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := audit.ParseLine([]byte(`{"index":0,"prev":"","time":"2026-02-02T03:04:05Z","kind":"event","actor":"keybroker","action":"x","path":"p","outcome":"ok"}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), []audit.Line{ln}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(cfg.Path)
	if err != nil || string(text) != string(ln.Raw)+"\n" {
		t.Errorf("the copy (%v): %s", err, text)
	}
	before, err := filepath.Glob(filepath.Join(dir, "copy-to-*"))
	if err != nil || len(before) != 1 {
		t.Fatalf("%v (%v)", before, err)
	}
	if text, err := os.ReadFile(before[0]); err != nil || string(text) != string(old) {
		t.Errorf("the one before (%v): %s", err, text)
	}
	if s.(audit.Doubter).Doubt() == "" {
		t.Error("nothing is said of it")
	}
}

// TestRefusedForWhatItIs tells what another batch may mend from what only time does.
func TestRefusedForWhatItIs(t *testing.T) {
	for status, want := range map[int]bool{400: true, 413: true, 422: true, 401: false, 404: false, 429: false, 500: false} {
		url, _ := receiver(t, text(status, ""))
		err := open(t, sink.HTTP{URL: url, AllowPrivate: true}).Send(t.Context(), lines(t))
		if _, is := errors.AsType[*audit.RefusedError](err); err == nil || is != want {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// TestCredentialsAreEncrypted refuses to send them, and the log, in clear text.
func TestCredentialsAreEncrypted(t *testing.T) {
	for _, c := range []sink.Config{
		sink.Splunk{URL: "http://splunk.example.com:8088", Token: canary},
		sink.Elasticsearch{URL: "http://elastic.example.com:9200", APIKey: canary},
		sink.HTTP{URL: "http://example.com", Headers: map[string]backends.SecretString{"Authorization": canary}},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "unencrypted") || strings.Contains(err.Error(), canary) {
			t.Errorf("%T: %v", c, err)
		}
	}
}
