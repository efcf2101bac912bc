package main

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/keybroker/keybroker/broker/client"
)

// show prints a result: as JSON for programs, or as draw has it for people.
func (a *app) show(result any, draw func(*table)) error {
	if a.json() {
		return a.showJSON(result)
	}
	t := &table{tabs: tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0), now: a.now()}
	draw(t)
	return t.tabs.Flush()
}

func (a *app) showJSON(result any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(result)
}

// collect walks through a list to its end, or to limit items (0: no limit).
func collect[T any](items iter.Seq2[T, error], limit int) ([]T, error) {
	all := []T{} // [] in JSON, not null
	for item, err := range items {
		if err != nil {
			return nil, err
		}
		if all = append(all, item); len(all) == limit {
			break
		}
	}
	return all, nil
}

// pageFor is the size of page to ask for when limit items are wanted.
func pageFor(limit int, after string) client.Page {
	const most = 200
	if limit <= 0 || limit > most {
		limit = most
	}
	return client.Page{Limit: limit, After: after}
}

// table is aligned text.
type table struct {
	tabs *tabwriter.Writer
	now  time.Time
}

func (t *table) row(cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		texts[i] = t.cell(c)
	}
	fmt.Fprintln(t.tabs, strings.TrimRight(strings.Join(texts, "\t"), " "))
}

// pair is a line of a description; it is left out where there is nothing to say.
func (t *table) pair(name string, value any) {
	if text := t.cell(value); text != "-" {
		t.row(name+":", text)
	}
}

// moment is a line of a description with a time that stays true when it is
// pasted into a report.
func (t *table) moment(name string, at time.Time) {
	if !at.IsZero() {
		t.row(name+":", stamp(at)+"  ("+relative(at, t.now)+")")
	}
}

// stamp is a time for the record.
func stamp(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format("2006-01-02T15:04:05.000Z")
}

// section ends one table and begins another with its own columns.
func (t *table) section(header ...any) {
	_ = t.tabs.Flush() // the last Flush reports what went wrong
	fmt.Fprintln(t.tabs)
	t.row(header...)
}

func (t *table) cell(v any) string {
	text := ""
	switch v := v.(type) {
	case time.Time:
		text = relative(v, t.now)
	case int:
		if v != 0 {
			text = strconv.Itoa(v)
		}
	case int64:
		if v != 0 {
			text = strconv.FormatInt(v, 10)
		}
	case []string:
		text = strings.Join(v, ", ")
	default:
		text = fmt.Sprint(v)
	}
	if text == "" {
		return "-"
	}
	return printable(text)
}

// printable takes out what would steer a terminal, break a table or have text
// appear in another order than it is in.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Cf) {
			return ' '
		}
		return r
	}, s)
}

// relative tells a time as people do: "in 4m", "12s ago".
func relative(at, now time.Time) string {
	switch d := at.Sub(now); {
	case at.IsZero():
		return ""
	case d >= time.Second:
		return "in " + short(d)
	case d <= -time.Second:
		return short(-d) + " ago"
	}
	return "now"
}

// short gives the largest unit of a duration, or two where that says too little.
func short(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Truncate(100*time.Millisecond).Seconds(), 'f', -1, 64) + "s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/day)
}

// write prints to the result's stream as it is.
func write(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}
