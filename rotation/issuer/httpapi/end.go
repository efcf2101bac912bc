package httpapi

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/httpcall"
)

// end is where an answer to create says when the credential ends by itself.
type end struct {
	path httpcall.Path
	life bool // it says for how many seconds it lives
}

// milliseconds: what is above this as seconds would be beyond the year 5000, and is a
// time in milliseconds.
const milliseconds = 1e11

// of reads the answer; zero: null, "" or 0, the credential does not end. What cannot be
// read, is not there, or is over already is ErrUnavailable: taken for "never", nobody
// would replace the credential in time. began is when it was asked for.
func (e *end) of(doc any, began time.Time) (time.Time, error) {
	if e == nil {
		return time.Time{}, nil
	}
	said, ok := e.path.One(doc)
	if !ok {
		return time.Time{}, fmt.Errorf("%w: the answer has nothing at %s", backends.ErrUnavailable, e.path)
	}
	var text string
	switch said := said.(type) {
	case nil:
	case string:
		text = said
	case json.Number:
		text = said.String()
	default:
		ok = false
	}
	at, readable := e.time(text, began)
	if !ok || !readable {
		return time.Time{}, fmt.Errorf("%w: what the answer has at %s is no %s", backends.ErrUnavailable, e.path, e.what())
	}
	if !at.IsZero() && !at.After(began) {
		return time.Time{}, fmt.Errorf("%w: the answer says at %s that the credential has ended already: are both clocks right?", backends.ErrUnavailable, e.path)
	}
	return at, nil
}

func (e *end) what() string {
	if e.life {
		return "number of seconds"
	}
	return "time (RFC 3339, a date, or Unix seconds)"
}

// time reads a time or a number of seconds; zero: never. Of a date it is the first
// moment, in UTC.
func (e *end) time(text string, began time.Time) (time.Time, bool) {
	n, err := strconv.ParseFloat(text, 64)
	switch number := err == nil && math.Abs(n) < 1e15; {
	case text == "" || number && n == 0:
		return time.Time{}, true
	case number && e.life:
		return began.Add(time.Duration(n * float64(time.Second))), n < 1e9
	case number && n > milliseconds:
		return time.UnixMilli(int64(n)), true
	case number:
		return time.Unix(int64(n), 0), true
	case e.life:
		return time.Time{}, false
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}
