package inbound

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/keybroker/keybroker/backends"
)

// deepest is how many objects and lists may stand in each other in a message.
const deepest = 64

// Decode reads one JSON document into v, whose numbers keep their digits where it is an
// *any. The error is ErrInvalid and quotes nothing: what cannot be read may hold a
// credential.
func Decode(body []byte, v any) error {
	if deep(body) {
		return fmt.Errorf("%w: the message is nested deeper than %d levels", backends.ErrInvalid, deepest)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return fmt.Errorf("%w: something in the message is of another type than the protocol says", backends.ErrInvalid)
		}
		return fmt.Errorf("%w: the message is no JSON", backends.ErrInvalid)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the message is more than one JSON document", backends.ErrInvalid)
	}
	return nil
}

// deep tells whether a document is nested too deeply. It looks at brackets outside of
// texts alone: whether it is JSON at all the decoder tells.
func deep(body []byte) bool {
	depth, quoted, escaped := 0, false, false
	for _, c := range body {
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{', c == '[':
			if depth++; depth > deepest {
				return true
			}
		case c == '}', c == ']':
			depth--
		}
	}
	return false
}
