package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
)

// ProblemType is the media type of a Problem (RFC 9457).
const ProblemType = "application/problem+json"

// Problem is every error that the server answers; find it by errors.As.
type Problem struct {
	Type     string `json:"type,omitempty"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"` // urn:uuid:… of the request, for the server's log
	Hint     string `json:"hint,omitempty"`     // what to do about it

	Problems []ConfigFinding `json:"problems,omitempty"` // all that is wrong, where that is more than Detail says

	RetryAfter time.Duration `json:"-"` // of the header, 0 = none
}

// Error gives the detail, or the title where there is none.
func (p *Problem) Error() string {
	if p.Detail != "" {
		return p.Detail
	}
	return fmt.Sprintf("the server answered %d %s", p.Status, strings.ToLower(p.Title))
}

// Status returns the HTTP status that err carries, 0 if it is no Problem.
func Status(err error) int {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p.Status
	}
	return 0
}

// asProblem reads the error in resp. What is no problem document, such as the
// page of a proxy, is not repeated: only its status is.
func asProblem(resp *http.Response) *Problem {
	p := &Problem{}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if mediaType == ProblemType {
		if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(p); err != nil {
			p = &Problem{}
		}
	} else if 300 <= resp.StatusCode && resp.StatusCode < 400 {
		p.Detail = fmt.Sprintf("the server answered with a redirect (%s), which is not followed", resp.Status)
		p.Hint = "give the server's own address"
	} else if resp.StatusCode == http.StatusBadRequest && wantsTLS(resp.Body) {
		p.Detail = "the server speaks TLS, and was called without"
		p.Hint = "write https:// in the address"
	}
	p.Status = resp.StatusCode
	if p.Title == "" {
		p.Title = http.StatusText(resp.StatusCode)
	}
	p.RetryAfter, _ = time.ParseDuration(resp.Header.Get("Retry-After") + "s")
	return p
}

// wantsTLS tells whether an answer is what net/http says on a listener with TLS to
// whom speaks none.
func wantsTLS(body io.Reader) bool {
	const says = "Client sent an HTTP request to an HTTPS server."
	text, err := io.ReadAll(io.LimitReader(body, 2*int64(len(says))))
	return err == nil && strings.TrimSpace(string(text)) == says
}

// Health is the answer of /healthz.
type Health struct {
	Status string `json:"status"` // "ok"
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready    bool     `json:"ready"`
	Problems []string `json:"problems"`          // what keeps the node from doing all of its work
	Notices  []string `json:"notices,omitempty"` // what does not work of what some secrets need: no reason to send requests elsewhere
}
