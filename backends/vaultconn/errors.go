package vaultconn

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

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
	{400, "", backends.ErrInvalid},
	{401, "", backends.ErrDenied}, // not Vault's own: a proxy before it
	{403, "", backends.ErrDenied},
	{404, "", backends.ErrNotFound},
	{405, "", backends.ErrUnsupported},
	{412, "", backends.ErrUnavailable}, // a node that has not seen our last write yet
	{413, "", backends.ErrInvalid},
	{0, "", backends.ErrUnavailable}, // 429, 472, 473, 5xx; 503 when sealed
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
	class := as(classOf(answer.StatusCode, said))
	if answer.RawError || said == "" || quotes(said, sent) {
		said = http.StatusText(answer.StatusCode)
	}
	return fmt.Errorf("%w: vault answered %d: %s", class, answer.StatusCode, brief(said))
}

func classOf(status int, said string) error {
	for _, row := range classes {
		if (row.status == 0 || row.status == status) && strings.Contains(said, row.text) {
			return row.class
		}
	}
	return backends.ErrUnavailable // not reached: the last row fits all
}

// quotes tells whether said contains a text of four bytes or more out of body,
// as it is or as JSON writes it.
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
		if len(v) < 4 {
			return false
		}
		escaped, _ := json.Marshal(v)
		return strings.Contains(said, v) || strings.Contains(said, strings.Trim(string(escaped), `"`))
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
