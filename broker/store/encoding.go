package store

import (
	sqldriver "database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// micros is a time in a column: microseconds since 1970 UTC, 0 for none.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// nullMicros is micros with NULL for none.
func nullMicros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// instant scans such a column, NULL or not.
type instant struct{ into *time.Time }

func (i instant) Scan(v any) error {
	*i.into = time.Time{}
	switch us := v.(type) {
	case nil:
	case int64:
		if us != 0 {
			*i.into = time.UnixMicro(us).UTC()
		}
	default:
		return fmt.Errorf("scanning a time: %T is no integer", v)
	}
	return nil
}

// nullText is a text in a column, NULL for none.
func nullText(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// orEmpty scans such a column.
type orEmpty struct{ into *string }

func (o orEmpty) Scan(v any) error {
	*o.into = ""
	switch text := v.(type) {
	case nil:
	case string:
		*o.into = text
	case []byte:
		*o.into = string(text)
	default:
		return fmt.Errorf("scanning a text: %T is none", v)
	}
	return nil
}

// asJSON is a column of JSON text. Its errors say nothing of the value.
type asJSON struct{ from any }

func (j asJSON) Value() (sqldriver.Value, error) {
	text, err := json.Marshal(j.from)
	if err != nil {
		return nil, fmt.Errorf("%w: %T cannot be encoded as JSON", backends.ErrInvalid, j.from)
	}
	return string(text), nil
}

// fromJSON scans such a column; empty text leaves the destination alone.
type fromJSON struct{ into any }

func (j fromJSON) Scan(v any) error {
	var text []byte
	switch v := v.(type) {
	case string:
		text = []byte(v)
	case []byte:
		text = v
	default:
		return errors.New("scanning JSON: no text")
	}
	if len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, j.into); err != nil {
		return fmt.Errorf("scanning JSON into %T: it does not fit", j.into)
	}
	return nil
}

// classedRow gives the errors of a row their class.
type classedRow struct {
	row
	classify func(error) error
}

func (r classedRow) Scan(dest ...any) error { return r.classify(r.row.Scan(dest...)) }
