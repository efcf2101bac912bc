package awsiam_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// front stands before moto and answers, in AWS's form, what moto cannot.
type front struct {
	URL      string
	requests atomic.Int64
	skew     atomic.Int64 // nanoseconds that AWS's clock is ahead of ours
	dated    atomic.Int64 // the same, but AWS takes what is signed by ours

	mu      sync.Mutex
	status  int
	body    string
	answers map[string]string // by action
	none    []string          // actions that are answered with NoSuchEntity
}

func newFront(t *testing.T, target string) *front {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	f := &front{answers: map[string]string{}}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Set("Date", time.Now().Add(time.Duration(f.dated.Load())).UTC().Format(http.TimeFormat))
			return nil
		},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.serve(w, r, proxy) }))
	f.URL = srv.URL
	t.Cleanup(func() {
		srv.Close()
		transport.CloseIdleConnections()
	})
	return f
}

func (f *front) serve(w http.ResponseWriter, r *http.Request, proxy http.Handler) {
	f.requests.Add(1)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body))
	f.mu.Lock()
	status, text := f.status, f.body
	if own, ok := f.answers[form.Get("Action")]; ok {
		status, text = http.StatusOK, own
	}
	if slices.Contains(f.none, form.Get("Action")) {
		status, text = http.StatusNotFound, failure("NoSuchEntity", "The Access Key cannot be found.")
	}
	f.mu.Unlock()
	skew := time.Duration(f.skew.Load())
	signed, _ := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	now := time.Now().Add(skew)
	if skew != 0 && now.Sub(signed).Abs() > 5*time.Minute {
		status, text = http.StatusForbidden, failure("SignatureDoesNotMatch", "Signature expired: it is now later than it was")
	}
	if status == 0 {
		proxy.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// failure is an answer of IAM's and STS's query protocol.
func failure(code, message string) string {
	return fmt.Sprintf(`<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><Error><Type>Sender</Type>`+
		`<Code>%s</Code><Message>%s</Message></Error><RequestId>7a62c49f-347e-4fc4-9331-6e8eEXAMPLE</RequestId></ErrorResponse>`, code, message)
}

// answer answers everything with a failure.
func (f *front) answer(status int, code, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status, f.body = status, failure(code, message)
}

// findNothing answers these actions as a server of IAM's does that has not heard of
// what they are about.
func (f *front) findNothing(actions ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.none = actions
}

func (f *front) delay(d time.Duration) { f.dated.Store(int64(d)) }

func (f *front) pass() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = 0
}

// simulate is an answer of the policy simulator, in the form of the IAM API reference.
func (f *front) simulate(decisions map[string]string) {
	var members strings.Builder
	for action, decision := range decisions {
		fmt.Fprintf(&members, `<member><MatchedStatements/><MissingContextValues/><EvalResourceName>*</EvalResourceName>`+
			`<EvalDecision>%s</EvalDecision><EvalActionName>%s</EvalActionName></member>`, decision, action)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers["SimulatePrincipalPolicy"] = `<SimulatePrincipalPolicyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">` +
		`<SimulatePrincipalPolicyResult><IsTruncated>false</IsTruncated><EvaluationResults>` + members.String() +
		`</EvaluationResults></SimulatePrincipalPolicyResult></SimulatePrincipalPolicyResponse>`
}
