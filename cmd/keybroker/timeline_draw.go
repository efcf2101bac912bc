package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keybroker/keybroker/broker/client"
)

// tone is how a line is coloured on a terminal.
type tone string

const (
	plain   tone = ""
	good    tone = "32" // green
	warning tone = "33" // yellow
	bad     tone = "31" // red
	faint   tone = "2"
	strong  tone = "1"
)

// clearLine returns to the start of the line and erases it (ECMA-48).
const clearLine = "\r\x1b[K"

// screen is what something that is followed is drawn on.
type screen struct {
	out   io.Writer // nil: nothing is drawn
	width int       // of the terminal; 0: it is none
	color bool
}

func newScreen(out io.Writer) screen {
	width, isTerminal := terminal(out)
	return screen{out, width, isTerminal && os.Getenv("NO_COLOR") == ""}
}

func (s *screen) paint(c tone, text string) string {
	if !s.color || c == plain {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// lines are facts in the order of time, each with the time since it began.
func (s *screen) lines(facts []fact, began time.Time) string {
	slices.SortStableFunc(facts, func(a, b fact) int { return a.at.Compare(b.at) })
	var text strings.Builder
	for _, f := range facts {
		after := fmt.Sprintf("+%.1fs", max(0, f.at.Sub(began).Seconds()))
		label := s.paint(f.tone, fmt.Sprintf("%-12s", f.label))
		text.WriteString(strings.TrimRight(fmt.Sprintf("%9s  %s  %s", after, label, printable(f.detail)), " ") + "\n")
	}
	return text.String()
}

// draw writes finished lines above a new status. A terminal that is gone is no
// reason to stop following.
func (t *timeline) draw(lines, status string) {
	text := lines
	if t.width > 0 {
		text = clearLine + lines
		if status != "" {
			text += t.paint(faint, cut("           … "+printable(status), t.width-1))
		}
	}
	t.status = status
	_, _ = io.WriteString(t.out, text)
}

// cut shortens a line to what fits: a line that wraps cannot be erased.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(0, width)])
}

// showEvent prints an event for programs, on one line.
func (a *app) showEvent(e client.Event) error {
	line := struct {
		Event      string             `json:"event"`
		Rotation   *client.Rotation   `json:"rotation,omitempty"`
		Retirement *client.Retirement `json:"retirement,omitempty"`
		Incident   *client.Incident   `json:"incident,omitempty"`
		Error      string             `json:"error,omitempty"`
	}{Event: e.Type, Rotation: e.Rotation, Retirement: e.Retirement, Incident: e.Incident}
	if e.Err != nil {
		line.Error = e.Err.Error()
	}
	return json.NewEncoder(a.out).Encode(line)
}
