package vaultconn

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
)

// classes maps what Vault answers to classes of error; the first row that fits
// counts. Statuses from Vault's API documentation ("HTTP status codes") and
// texts from vault-plugin-secrets-kv.
var classes = []struct {
	status int    // 0: any
	text   string // "": any
	class  error
}{
	{400, "check-and-set parameter did not match", backends.ErrConflict},
	{400, "Upgrading from non-versioned", backends.ErrUnavailable}, // a fresh mount, for a moment
	{400, "failed to revoke entry", backends.ErrUnavailable},       // what the lease is of did not answer, vault/expiration.go
	{400, "", backends.ErrInvalid},
	{401, "", backends.ErrDenied}, // not Vault's own: a proxy before it
	{403, "", backends.ErrDenied},
	{404, "", backends.ErrNotFound}, // unless it went astray
	{405, "", backends.ErrUnsupported},
	{412, "", backends.ErrUnavailable}, // a node that has not seen our last write yet
	{413, "", backends.ErrInvalid},
	{500, "is not an allowed role", backends.ErrDenied}, // by a database's connection, builtin/logical/database
	{500, "value being too large", backends.ErrInvalid}, // the storage's limit, sdk/physical
	{0, "", backends.ErrUnavailable},                    // 429, 472, 473, 5xx; 503 when sealed
}

// fault turns an error of the SDK into one of a class. sent is the request's
// body: an answer that quotes a text out of it is not passed on.
//
// A failure without an answer (network, timeout, cut off in the middle) is
// ErrUnavailable and keeps its cause, so that errors.Is finds
// context.Canceled. The SDK's own text is dropped where there was an answer: it
// takes several lines and repeats the raw body of what is no Vault.
func fault(err error, sent any) error {
	return faultAs(err, sent, func(class error) error { return class })
}

// faultAs is fault with a say in the class of an answer.
func faultAs(err error, sent any, as func(class error) error) error {
	if err == nil {
		return nil
	}
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	said := strings.Join(answer.Errors, "; ")
	class := as(classOf(answer))
	if answer.RawError || said == "" || quotes(said, sent) {
		said = http.StatusText(answer.StatusCode)
	}
	return fmt.Errorf("%w: vault answered %d: %s", class, answer.StatusCode, brief(said))
}

// notice is how long the last answer said to wait (Retry-After, RFC 9110, 10.2.3),
// which the SDK's errors do not tell.
type notice struct {
	wait  time.Duration
	given bool
}

// hear takes it from an answer, as a callback of the SDK.
func (n *notice) hear(answer *api.Response) {
	*n = notice{}
	text := answer.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		*n = notice{time.Duration(seconds) * time.Second, true}
	} else if at, err := http.ParseTime(text); err == nil {
		*n = notice{max(time.Until(at), 0), true}
	}
}

// on adds it to an error that may end by waiting.
func (n *notice) on(err error) error {
	if n.given && errors.Is(err, backends.ErrUnavailable) {
		return backends.After(n.wait, err)
	}
	return err
}

// unknownToken tells whether Vault refused a request because it does not know the
// token, and not because of what the token may do. The texts are those of
// vault/request_handling.go and vault/token_store.go.
func unknownToken(err error) bool {
	var answer *api.ResponseError
	if !errors.As(err, &answer) || answer.StatusCode != http.StatusForbidden {
		return false
	}
	said := strings.Join(answer.Errors, "; ")
	return strings.Contains(said, "invalid token") || strings.Contains(said, "bad token")
}

// astray tells whether an answer is a 404 that says more than that nothing is
// stored: where no engine is mounted, as while one is moved ("no handler for route",
// vault/router.go), or from a proxy.
func astray(err error) bool {
	var answer *api.ResponseError
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound && len(answer.Errors) > 0
}

func classOf(answer *api.ResponseError) error {
	if astray(answer) {
		return backends.ErrUnavailable
	}
	said := strings.Join(answer.Errors, "; ")
	for _, row := range classes {
		if (row.status == 0 || row.status == answer.StatusCode) && strings.Contains(said, row.text) {
			return row.class
		}
	}
	return backends.ErrUnavailable // not reached: the last row fits all
}

// quotes tells whether said gives anything away of the texts in body.
func quotes(said string, body any) bool {
	switch v := body.(type) {
	case map[string]any:
		for _, e := range v {
			if quotes(said, e) {
				return true
			}
		}
	case map[string]string:
		for _, e := range v {
			if quotes(said, e) {
				return true
			}
		}
	case string:
		return backends.Quotes(said, v)
	}
	return false
}

// brief makes one line of at most 200 bytes.
func brief(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}
