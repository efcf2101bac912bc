package webhook_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/webhook"
)

func answer(code int, header, value, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		if header != "" {
			w.Header().Set(header, value)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

const applied = `{"status":"applied"}`

func TestOutcomes(t *testing.T) {
	says := &webhook.Claim{Applied: true}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		want   webhook.Outcome
	}{
		"no content":           {status(204), webhook.Outcome{Status: 204, Received: true}},
		"received":             {answer(202, "", "", `{"status":"received"}`), webhook.Outcome{Status: 202, Received: true, Claim: &webhook.Claim{}}},
		"applied":              {answer(201, "", "", applied), webhook.Outcome{Status: 201, Received: true, Claim: says}},
		"failed, says applied": {answer(500, "", "", applied), webhook.Outcome{Status: 500}},
		"not found":            {status(404), webhook.Outcome{Status: 404}},
		"gone":                 {status(410), webhook.Outcome{Status: 410, Gone: true}},
		"gone, not for ever":   {answer(410, "Retry-After", "120", ""), webhook.Outcome{Status: 410, Gone: true, RetryAfter: 2 * time.Minute}},
		"in seconds":           {answer(429, "Retry-After", "120", ""), webhook.Outcome{Status: 429, RetryAfter: 2 * time.Minute}},
		"at a date":            {answer(429, "Retry-After", sendTime.Add(time.Hour).Format(http.TimeFormat), ""), webhook.Outcome{Status: 429, RetryAfter: time.Hour}},
		"in the past":          {answer(503, "Retry-After", sendTime.Add(-time.Hour).Format(http.TimeFormat), ""), webhook.Outcome{Status: 503}},
		"in a year":            {answer(503, "Retry-After", "31536000", ""), webhook.Outcome{Status: 503, RetryAfter: 24 * time.Hour}},
		"in 2262":              {answer(503, "Retry-After", "9223372036854775807", ""), webhook.Outcome{Status: 503, RetryAfter: 24 * time.Hour}},
		"beyond 64 bits":       {answer(503, "Retry-After", strings.Repeat("9", 40), ""), webhook.Outcome{Status: 503}},
		"at a far date":        {answer(503, "Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT", ""), webhook.Outcome{Status: 503, RetryAfter: 24 * time.Hour}},
		"negative":             {answer(503, "Retry-After", "-5", ""), webhook.Outcome{Status: 503}},
		"nonsense":             {answer(503, "Retry-After", "soon", ""), webhook.Outcome{Status: 503}},
	} {
		server, _ := consumer(t, c.answer)
		got := send(t, private(server.URL))
		if (got.Err == nil) != c.want.Received || (got.Err != nil && !errors.Is(got.Err, backends.ErrUnavailable)) {
			t.Errorf("%s: got %v", name, got.Err)
		}
		got.Err, got.Address = nil, ""
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestClaims(t *testing.T) {
	full := &webhook.Claim{Applied: true, Generation: 9, Instance: "web-1", Fingerprint: "ab12"}
	for name, c := range map[string]struct {
		body string
		want *webhook.Claim
	}{
		"whole":                  {`{"status":"applied","generation":9,"instance":"web-1","fingerprint":"ab12"}`, full},
		"with more in it":        {`{"status":"applied","generation":9,"instance":"web-1","fingerprint":"ab12","took":1.5}`, full},
		"received by one":        {`{"status":"received","instance":"web-1"}`, &webhook.Claim{Instance: "web-1"}},
		"nothing":                {``, nil},
		"no JSON":                {`applied`, nil},
		"no object":              {`"applied"`, nil},
		"a list":                 {`[` + applied + `]`, nil},
		"cut off":                {`{"status":"applied","generation":9`, nil},
		"another status":         {`{"status":"ok"}`, nil},
		"no status":              {`{"generation":9}`, nil},
		"a status of no text":    {`{"status":true}`, nil},
		"a number as text":       {`{"status":"applied","generation":"9","instance":"web-1","fingerprint":"ab12"}`, &webhook.Claim{Applied: true, Instance: "web-1", Fingerprint: "ab12"}},
		"a number with a part":   {`{"status":"applied","generation":9.5}`, &webhook.Claim{Applied: true}},
		"a name of lines":        {`{"status":"received","instance":"a\nb"}`, &webhook.Claim{}},
		"a name too long":        {`{"status":"received","instance":"` + strings.Repeat("n", 201) + `"}`, &webhook.Claim{}},
		"two documents":          {applied + applied, nil},
		"too long to be looked":  {strings.Repeat(" ", webhook.MaxAnswer) + applied, nil},
		"as long as it may be":   {strings.Repeat(" ", webhook.MaxAnswer-len(applied)) + applied, &webhook.Claim{Applied: true}},
		"far longer than memory": {strings.Repeat(applied, 100_000), nil},
	} {
		server, _ := consumer(t, answer(200, "", "", c.body))
		if o := send(t, private(server.URL)); !o.Received || o.Err != nil || !reflect.DeepEqual(o.Claim, c.want) {
			t.Errorf("%s: got %+v, claim %+v, want %+v", name, o, o.Claim, c.want)
		}
	}
}

func TestWhetherAnEndpointIsDown(t *testing.T) {
	for name, c := range map[string]struct {
		outcome webhook.Outcome
		want    bool
	}{
		"received":       {webhook.Outcome{Status: 204, Received: true}, false},
		"it objects":     {webhook.Outcome{Status: 400, Err: backends.ErrUnavailable}, false},
		"gone":           {webhook.Outcome{Status: 410, Gone: true, Err: backends.ErrUnavailable}, false},
		"it redirects":   {webhook.Outcome{Status: 302, Err: backends.ErrUnavailable}, false},
		"too much":       {webhook.Outcome{Status: 429, Err: backends.ErrUnavailable}, true},
		"broken":         {webhook.Outcome{Status: 503, Err: backends.ErrUnavailable}, true},
		"no answer":      {webhook.Outcome{Err: fmt.Errorf("%w: %w", backends.ErrUnavailable, context.DeadlineExceeded)}, true},
		"out of bounds":  {webhook.Outcome{Err: backends.ErrDenied}, true},
		"we break off":   {webhook.Outcome{Err: fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Canceled)}, false},
		"nothing to say": {webhook.Outcome{Err: backends.ErrInvalid}, false},
	} {
		if got := c.outcome.Down(); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// A consumer that does not come to its end is left alone when the attempt's time is
// over. What it said before that counts.
func TestSlowAnswers(t *testing.T) {
	hang := func(code int, begin string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			if code != 0 {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(code)
				_, _ = io.WriteString(w, begin)
				_ = http.NewResponseController(w).Flush()
			}
			<-r.Context().Done()
		}
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		want   webhook.Outcome
	}{
		"no answer":      {hang(0, ""), webhook.Outcome{}},
		"half an answer": {hang(200, `{"status":"app`), webhook.Outcome{Status: 200, Received: true}},
		"an endless one": {hang(200, applied), webhook.Outcome{Status: 200, Received: true}},
		"busy, and slow": {hang(503, "wait"), webhook.Outcome{Status: 503, RetryAfter: 7 * time.Second}},
		"gone, but slow": {hang(410, "no"), webhook.Outcome{Status: 410, Gone: true, RetryAfter: 7 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each takes the whole time
			server, _ := consumer(t, c.answer)
			e := private(server.URL + "/" + canary)
			e.Timeout = time.Second
			got := send(t, e)
			if (got.Err == nil) != c.want.Received || (got.Err != nil && !errors.Is(got.Err, backends.ErrUnavailable)) || strings.Contains(fmt.Sprint(got.Err), canary) {
				t.Errorf("got %v", got.Err)
			}
			if got.Status == 0 && !strings.Contains(got.Err.Error(), "deadline exceeded") {
				t.Errorf("got %v", got.Err)
			}
			got.Err, got.Address = nil, ""
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
