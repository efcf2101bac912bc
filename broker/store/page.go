package store

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// Page asks for at most Limit items after the cursor After. The cursor is
// opaque: a list returns the one of its next page, empty after the last. A
// malformed one is ErrInvalid. What is inserted or removed between two pages
// makes no other item appear twice or be left out.
type Page struct {
	After string
	Limit int // 0 = 100; at most 1000
}

const (
	defaultLimit = 100
	maxLimit     = 1000
)

func (p Page) limit() int {
	if p.Limit <= 0 {
		return defaultLimit
	}
	return min(p.Limit, maxLimit)
}

// cursor makes the cursor of an item from its key.
func cursor(key ...any) string {
	text, _ := json.Marshal(key) // strings and integers cannot fail
	return base64.RawURLEncoding.EncodeToString(text)
}

// decode reads the key in After into pointers; false if there is none.
func (p Page) decode(key ...any) (bool, error) {
	if p.After == "" {
		return false, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(p.After)
	var parts []json.RawMessage
	if err == nil {
		err = json.Unmarshal(text, &parts)
	}
	if err != nil || len(parts) != len(key) {
		return false, errCursor
	}
	for i := range parts {
		if json.Unmarshal(parts[i], key[i]) != nil {
			return false, errCursor
		}
	}
	return true, nil
}

var errCursor = fmt.Errorf("%w: the cursor is none that a list returned", backends.ErrInvalid)

// cut takes the item off that was read beyond the page, if there is one, and
// returns the cursor of the next page.
func cut[T any](items []T, p Page, key func(T) string) ([]T, string) {
	limit := p.limit()
	if len(items) <= limit {
		return items, ""
	}
	return items[:limit], key(items[limit-1])
}

// filter builds a WHERE clause.
type filter struct {
	conditions []string
	args       []any
}

// and adds a condition, in which every "$?" is the next of args.
func (f *filter) and(condition string, args ...any) {
	for _, arg := range args {
		condition = strings.Replace(condition, "$?", f.arg(arg), 1)
	}
	f.conditions = append(f.conditions, condition)
}

// equal adds column = value, unless value is empty.
func (f *filter) equal(column, value string) {
	if value != "" {
		f.and(column+" = $?", value)
	}
}

// in adds that column is one of values, of which there is at least one.
func in[T ~string](f *filter, column string, values []T) {
	holders := make([]string, len(values))
	for i, v := range values {
		holders[i] = f.arg(string(v))
	}
	f.conditions = append(f.conditions, column+" IN ("+strings.Join(holders, ", ")+")")
}

// arg adds an argument and returns its placeholder.
func (f *filter) arg(v any) string {
	f.args = append(f.args, v)
	return fmt.Sprintf("$%d", len(f.args))
}

func (f *filter) where() string {
	if len(f.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(f.conditions, " AND ")
}

// atMost limits a query to the number in an argument. SQLite compiles a statement
// anew whenever an argument changes that it sees in LIMIT; into a cast it does not look.
func atMost(arg string) string { return " LIMIT CAST(" + arg + " AS BIGINT)" }
