package program

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Protocol is the version that is spoken here.
const Protocol = 1

// The operations.
const (
	Issue  = "issue"
	Revoke = "revoke"
	Find   = "find"
	Check  = "check"
	Probe  = "probe"
)

// Request is what a program is given.
type Request struct {
	Protocol  int               `json:"protocol"`
	Operation string            `json:"operation"`
	Secret    Secret            `json:"secret"`
	Tag       string            `json:"tag,omitempty"`
	Attempt   int               `json:"attempt,omitempty"`
	Version   int               `json:"version,omitempty"`
	Urgent    bool              `json:"urgent,omitempty"`
	Handle    map[string]string `json:"handle,omitempty"`
	Address   string            `json:"address,omitempty"`
	Value     map[string]string `json:"value,omitempty"` // secret
}

// Secret names what a credential is for.
type Secret struct {
	Tenant   string            `json:"tenant"`
	Name     string            `json:"name"`
	Labels   map[string]string `json:"labels"`
	Settings json.RawMessage   `json:"settings,omitempty"`
}

// Answer is what a program answers with.
type Answer struct {
	Protocol int               `json:"protocol"`
	Error    *Failure          `json:"error"`
	Value    map[string]string `json:"value"` // secret
	Handle   map[string]string `json:"handle"`
	NotAfter *time.Time        `json:"not_after"`
	Found    []Found           `json:"found"`
	Findings []Finding         `json:"findings"`
	Verdict  string            `json:"verdict"`
	Detail   string            `json:"detail"`
	Address  string            `json:"address"`
}

// Failure is why a program did not do what it was asked to.
type Failure struct {
	Class   string `json:"class"`
	Message string `json:"message"`
}

// Found is one credential.
type Found struct {
	Tag    string            `json:"tag"`
	Handle map[string]string `json:"handle"`
}

// Finding is one result of a check.
type Finding struct {
	What    string `json:"what"`
	Problem string `json:"problem"`
	Mend    string `json:"mend"`
	Unknown bool   `json:"unknown"`
}

// classes are those of Failure.Class.
var classes = map[string]error{
	"not_found":   backends.ErrNotFound,
	"denied":      backends.ErrDenied,
	"conflict":    backends.ErrConflict,
	"invalid":     backends.ErrInvalid,
	"unsupported": backends.ErrUnsupported,
	"unavailable": backends.ErrUnavailable,
}

// exits are the classes of exit statuses, for programs that end without an answer:
// those of sysexits.h that say one. With any other it may have had its effect.
var exits = map[int]error{
	64: backends.ErrInvalid,     // EX_USAGE
	65: backends.ErrInvalid,     // EX_DATAERR
	69: backends.ErrUnavailable, // EX_UNAVAILABLE
	75: backends.ErrUnavailable, // EX_TEMPFAIL
	77: backends.ErrDenied,      // EX_NOPERM
	78: backends.ErrInvalid,     // EX_CONFIG
}

var errNoAnswer = errors.New("it is not one JSON object of protocol 1")

// decode reads an answer. Its errors quote nothing of it.
func decode(out []byte) (Answer, error) {
	var a Answer
	d := json.NewDecoder(bytes.NewReader(out))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil || a.Protocol != Protocol {
		return Answer{}, errNoAnswer
	}
	if _, err := d.Token(); err != io.EOF {
		return Answer{}, errNoAnswer
	}
	if a.Error != nil && classes[a.Error.Class] == nil {
		return Answer{}, errors.New("its error has a class that there is not")
	}
	return a, nil
}
