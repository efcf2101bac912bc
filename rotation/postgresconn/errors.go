package postgresconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// SQLSTATEs that mean something of their own here.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	InvalidPassword = "28P01" // or no such role: the server does not tell them apart
	InvalidLogin    = "28000" // no entry in pg_hba.conf, a role without LOGIN
)

var codes = map[string]struct {
	class error
	text  string
}{
	InvalidPassword: {backends.ErrDenied, "the password is refused"},
	InvalidLogin:    {backends.ErrDenied, "the login is not permitted, whatever the password (pg_hba.conf, or a role without LOGIN)"},
	"42501":         {backends.ErrDenied, "the permission for it is missing"},
	"3D000":         {backends.ErrInvalid, "there is no such database"},
	"42704":         {backends.ErrInvalid, "there is no such role"},
	"25006":         {backends.ErrUnavailable, "the server takes no writes at the moment"},
	"40001":         {backends.ErrUnavailable, "it was changed at the same time"},
	"53300":         {backends.ErrUnavailable, "it has too many connections"},
	"55000":         {backends.ErrUnavailable, "it takes no connections at the moment"},
	"55P03":         {backends.ErrUnavailable, "somebody else holds the lock"},
	"57P01":         {backends.ErrUnavailable, "it is shutting down, or ended the connection"},
	"57P03":         {backends.ErrUnavailable, "it is starting up or shutting down"},
}

// explained is an error in fixed words: those of the server and of pgx may quote
// what was sent, so nothing else of theirs is kept.
type explained struct {
	class error
	text  string
	code  string // SQLSTATE; empty: the server did not say it
	ended error  // of the context, nil: it did not end
}

func (e *explained) Error() string { return e.class.Error() + ": " + e.text }

// Unwrap gives the class, and the context's error.
func (e *explained) Unwrap() []error {
	if e.ended != nil {
		return []error{e.class, e.ended}
	}
	return []error{e.class}
}

// Code returns the SQLSTATE of what the server said; empty if it did not say it.
func Code(err error) string {
	var done *explained
	if errors.As(err, &done) {
		return done.code
	}
	var said *pgconn.PgError
	if !errors.As(err, &said) || !sqlstate.MatchString(said.Code) {
		return ""
	}
	return said.Code
}

var sqlstate = regexp.MustCompile(`^[0-9A-Z]{5}$`)

// Explain gives an error of pgx its class and says in words of our own what it is;
// Code still tells the server's. What is not known is ErrUnavailable.
func Explain(err error) error {
	var refused *outbound.RefusedError
	if errors.As(err, &refused) {
		return refused
	}
	var done *explained
	if errors.As(err, &done) {
		return err
	}
	e := &explained{code: Code(err)}
	e.text, e.class = describe(err)
	for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, end) {
			e.ended = end
		}
	}
	return e
}

func describe(err error) (text string, class error) {
	code := Code(err)
	if known, ok := codes[code]; ok {
		return fmt.Sprintf("%s (SQLSTATE %s)", known.text, code), known.class
	}
	switch {
	case strings.HasPrefix(code, "22"), strings.HasPrefix(code, "23"):
		return "the server does not take the value (SQLSTATE " + code + ")", backends.ErrInvalid
	case code != "":
		return "SQLSTATE " + code, backends.ErrUnavailable
	case errors.Is(err, context.Canceled):
		return context.Canceled.Error(), backends.ErrUnavailable
	case errors.Is(err, context.DeadlineExceeded), pgconn.Timeout(err):
		return "timeout", backends.ErrUnavailable
	case errors.Is(err, pgconn.ErrStandbyConnection):
		return "the server is a standby, which takes no writes", backends.ErrUnavailable
	}
	for _, u := range unspoken {
		if strings.Contains(err.Error(), u.part) {
			return u.text, backends.ErrUnavailable
		}
	}
	if text := outbound.Describe(err); text != "" {
		return text, backends.ErrUnavailable
	}
	var network net.Error
	if errors.As(err, &network) && network.Timeout() {
		return "timeout", backends.ErrUnavailable
	}
	return "no valid answer of a PostgreSQL server", backends.ErrUnavailable
}

// unspoken lists parts of texts of pgconn for which it has no error of its own.
var unspoken = []struct{ part, text string }{
	{"server did not complete authentication", "the server asks for no password (trust in pg_hba.conf), so it tells nothing of one"},
	{"server requested", "the server does not ask for the password by SCRAM-SHA-256"},
	{"server does not support SCRAM-SHA-256", "the server does not ask for the password by SCRAM-SHA-256"},
	{"channel binding", `the server does not bind the login to the TLS connection (SCRAM-SHA-256-PLUS): use sslmode = "verify-full"`},
	{"server refused TLS connection", "TLS: the server does not offer it"},
	{"invalid SCRAM ServerSignature", "the server does not know the password itself: it is another than it should be"},
}
