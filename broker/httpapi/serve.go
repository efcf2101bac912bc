package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/google/uuid"
)

const requestIDHeader = "X-Request-Id"

// serve is the way of every request: an id, the headers and limits that all
// have, and what is told of it afterwards.
func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	began := s.now()
	rec := &recorder{ResponseWriter: w}
	h := rec.Header()
	h.Set(requestIDHeader, uuid.NewString())
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.TLS != nil {
		h.Set("Strict-Transport-Security", "max-age=31536000") // a year (RFC 6797)
	}
	limits := s.limits.Load()
	r.Body = http.MaxBytesReader(rec, r.Body, max(limits.MaxRequestSize, s.larger[r.URL.Path], reported(r.URL.Path))) // nobody's is read who is not known

	defer func() {
		took := s.now().Sub(began)
		s.Observe(route(r), rec.statusOr(http.StatusOK), took)
		s.Logger.Debug("request served", "request_id", requestID(rec), "route", route(r), "status", rec.statusOr(http.StatusOK), "took", took)
	}()
	defer s.recover(rec, r)

	from, err := limits.client(r)
	if err != nil {
		s.fail(rec, r, err)
		return
	}
	r.RemoteAddr = netip.AddrPortFrom(from, 0).String()
	if !canonical(r.URL.EscapedPath()) {
		s.stray(rec, r, errNoRoute)
		return
	}
	s.mux.ServeHTTP(rec, r)
}

// recover turns a panic into a 500, or cuts the connection if an answer has
// begun. What a panic carries may be anything, so only its kind is logged unless
// it is the runtime's own, which quotes no strings.
func (s *server) recover(w *recorder, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	what := fmt.Sprintf("a %T", v)
	if e, ok := v.(runtime.Error); ok {
		what = e.Error()
	}
	s.Logger.Error("request panicked", "request_id", requestID(w), "route", route(r), "panic", what, "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	s.problem(w, asFailure(fmt.Errorf("panic: %s", what)), nil)
}

// requestID is the id that the answer carries.
func requestID(w http.ResponseWriter) string { return w.Header().Get(requestIDHeader) }

var methodNames = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// route names what was asked for, in words that are few and hold no name.
func route(r *http.Request) string {
	if r.Pattern == "" || r.Pattern == "/" {
		return "unmatched"
	}
	if !slices.Contains(methodNames, r.Method) {
		return "OTHER " + r.Pattern
	}
	return r.Method + " " + r.Pattern
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int // 0: nothing was sent yet
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	if status == statusGone {
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) statusOr(none int) int {
	if w.status == 0 {
		return none
	}
	return w.status
}
