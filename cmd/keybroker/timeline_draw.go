package main

import (
	"encoding/json"
	"io"
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

func (t *timeline) paint(c tone, text string) string {
	if !t.color || c == plain {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
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
		Error      string             `json:"error,omitempty"`
	}{Event: e.Type, Rotation: e.Rotation, Retirement: e.Retirement}
	if e.Err != nil {
		line.Error = e.Err.Error()
	}
	return json.NewEncoder(a.out).Encode(line)
}
