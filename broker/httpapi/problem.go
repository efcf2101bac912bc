package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// retryAfter is what an unavailable part of the node asks its callers to wait, in
// seconds.
const retryAfter = 5

// statusGone stands in logs and metrics for a caller that left before the
// answer; nothing is sent.
const statusGone = 499

// failure is an error that the API itself found.
type failure struct {
	status int
	detail string
	hint   string
	header http.Header

	problems []client.ConfigFinding
}

func (f *failure) Error() string { return f.detail }

var (
	errNoRoute  = &failure{status: http.StatusNotFound, detail: "the API has no such path"}
	errNoMethod = &failure{status: http.StatusMethodNotAllowed, detail: "this path does not take the method"}
	errNoToken  = &failure{
		status: http.StatusUnauthorized,
		detail: "a token is needed",
		hint:   "send it as Authorization: Bearer <token>",
		header: http.Header{"Www-Authenticate": {`Bearer realm="keybroker"`}},
	}
	errBadToken = &failure{
		status: http.StatusUnauthorized,
		detail: "the token is unknown, expired or revoked",
		header: http.Header{"Www-Authenticate": {`Bearer realm="keybroker", error="invalid_token"`}},
	}
)

// refusal is the answer to a token that the Authenticator did not accept. Why is
// not told to those whom we do not know, unless it is an authn.Refused.
func refusal(token string, err error) error {
	_, waits := errors.AsType[waiter](err)
	told, tells := errors.AsType[*authn.Refused](err)
	_, kept := errors.AsType[*authn.KeptOut](err)
	switch {
	case kept: // it is certain who it is: 403
		return err
	case waits, backends.Retryable(err): // it cannot tell now, or its failure is unknown
		return err
	case tells:
		return &failure{status: http.StatusUnauthorized, detail: told.Error(), header: errNoToken.header}
	case token == "":
		return errNoToken
	}
	return errBadToken
}

// statuses maps the classes of error.
var statuses = map[error]int{
	backends.ErrNotFound:    http.StatusNotFound,
	backends.ErrDenied:      http.StatusForbidden,
	backends.ErrConflict:    http.StatusConflict,
	backends.ErrInvalid:     http.StatusBadRequest,
	backends.ErrUnsupported: http.StatusUnprocessableEntity,
	backends.ErrUnavailable: http.StatusServiceUnavailable,
}

// hinter is an error that knows what the caller can do about it.
type hinter interface {
	error
	Hint() string
}

// waiter is an error about somebody who has failed too often and has to wait.
type waiter interface {
	error
	RetryAfter() time.Duration
}

// lister is an error that has several reasons.
type lister interface {
	error
	Problems() []client.ConfigFinding
}

// asFailure translates err. What has no class was not expected: its text is for
// the log alone.
func asFailure(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if w, ok := errors.AsType[waiter](err); ok {
		f := tooMany(w.RetryAfter())
		f.detail = err.Error()
		return f
	}
	status, ok := statuses[backends.Class(err)]
	if !ok {
		return &failure{
			status: http.StatusInternalServerError,
			detail: "something went wrong inside of the server",
			hint:   "the server's log tells more under the id in instance",
		}
	}
	f := &failure{status: status, detail: err.Error()}
	if status == http.StatusServiceUnavailable {
		f.header = http.Header{"Retry-After": {strconv.Itoa(retryAfter)}}
	}
	if h, ok := errors.AsType[hinter](err); ok {
		f.hint = h.Hint()
	}
	if l, ok := errors.AsType[lister](err); ok {
		f.problems = l.Problems()
	}
	return f
}

// fail answers err as a problem document. The connection of a caller that has
// left is cut: without an answer net/http would send a 200 to whom it is only
// half closed.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	f := asFailure(err)
	if _, ours := errors.AsType[*failure](err); !ours && r.Context().Err() != nil {
		w.WriteHeader(statusGone)
		panic(http.ErrAbortHandler)
	}
	if f.status >= http.StatusInternalServerError {
		s.Logger.Error("request failed", "request_id", requestID(w), "route", route(r), "status", f.status, "error", err)
	}
	s.problem(w, f, nil)
}

// problem writes f; extra are members besides those of RFC 9457.
func (s *server) problem(w http.ResponseWriter, f *failure, extra map[string]any) {
	p := client.Problem{
		Type:     "about:blank",
		Title:    http.StatusText(f.status),
		Status:   f.status,
		Detail:   f.detail,
		Instance: "urn:uuid:" + requestID(w),
		Hint:     f.hint,
		Problems: f.problems,
	}
	body, err := json.Marshal(p)
	if err == nil && len(extra) > 0 {
		members := map[string]any{}
		if err = json.Unmarshal(body, &members); err == nil {
			for k, v := range extra {
				members[k] = v
			}
			body, err = json.Marshal(members)
		}
	}
	if err != nil { // strings and numbers: cannot happen
		body = []byte("{}")
	}
	for name, values := range f.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", client.ProblemType)
	w.WriteHeader(f.status)
	_, _ = w.Write(body) // a caller that is gone needs no answer
}
