package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// stuckShown is how much of what is stuck stands below the bars.
const stuckShown = 5

// leastBetween is how long no other line says how far it is where there is no terminal.
const leastBetween = time.Second

// flush draws what is new; last: what stands there then stays.
func (p *progress) flush(last bool) {
	if p.out == nil || !p.known && len(p.pending) == 0 {
		return
	}
	facts := p.lines(p.pending, p.began())
	p.pending = nil
	if p.width > 0 {
		p.redraw(facts, last)
		return
	}
	line, age := p.line(), p.now().Sub(p.drawnAt)
	if line != p.standing && (last || age >= leastBetween) || age >= heartbeat && !last {
		p.standing, p.drawnAt = line, p.now()
		facts += fmt.Sprintf("%9s  %s\n", fmt.Sprintf("+%.1fs", max(0, p.now().Sub(p.began()).Seconds())), line)
	}
	_, _ = io.WriteString(p.out, facts) // a reader that is gone is no reason to stop following
}

// redraw writes finished lines where the bars were, and the bars below them (ECMA-48:
// cursor up, erase to the end of the screen).
func (p *progress) redraw(facts string, last bool) {
	if width, ok := terminal(p.out); ok {
		p.width = width // it may have been made smaller
	}
	block := p.block()
	text := strings.Join(block, "\n") + "\n"
	if facts == "" && text == p.standing && !last {
		return
	}
	p.standing = text
	up := ""
	if p.drawn > 0 {
		up = fmt.Sprintf("\r\x1b[%dA\x1b[J", p.drawn)
	}
	p.drawn = len(block)
	_, _ = io.WriteString(p.out, up+facts+text)
}

// line is how far it is, on one line.
func (p *progress) line() string {
	n := p.incident.Progress
	parts := []string{"contained " + ofSome(n.Contained, n), "proven dead " + ofSome(n.Proven, n)}
	add := func(count int, what string) {
		if count > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", what, count))
		}
	}
	add(n.Pending, "pending")
	add(revoking(n), "revoking")
	add(n.Failed, "failed")
	add(n.Unprovable, "unprovable")
	parts = append(parts, "replaced "+of(n.Replaced, n.Secrets))
	if n.ToTell > 0 {
		parts = append(parts, "told "+of(n.Told, n.ToTell))
	}
	add(n.Stuck, "stuck")
	if p.incident.State == client.IncidentProposed {
		return "NOT BEGUN, waiting for a second person: keybroker incident approve " + p.incident.ID
	}
	text := strings.Join(parts, ", ")
	for _, e := range []struct {
		what string
		at   time.Time
		over bool
	}{{"contained", n.ContainedBy, n.AllContained()}, {"proven", n.ProvenBy, n.AllProven()}} {
		if !e.at.IsZero() && !e.over {
			text += "; " + e.what + " by about " + e.at.Local().Format(time.TimeOnly)
		}
	}
	return text
}

// block is how far it is, as bars; none of its lines wraps.
func (p *progress) block() []string {
	i, n := p.incident, p.incident.Progress
	if i.State == client.IncidentProposed {
		return []string{p.fit(bad, "  NOT BEGUN: "+approvalNeeded(i))}
	}
	versions := n.Versions + n.Pending + n.Failed // of what is pending at least one each
	lines := []string{
		p.bar("contained", n.Contained, versions, p.about(n.ContainedBy, n.AllContained())),
		p.bar("proven dead", n.Proven, versions, p.about(n.ProvenBy, n.AllProven())),
		p.bar("replaced", n.Replaced, n.Secrets, ""),
	}
	if n.ToTell > 0 {
		lines = append(lines, p.bar("told", n.Told, n.ToTell, ""))
	}
	counts := fmt.Sprintf("  pending %d, revoking %d, contained %d, proven dead %d", n.Pending, revoking(n), max(0, n.Contained-n.Proven), n.Proven)
	if n.Failed > 0 {
		counts += fmt.Sprintf(", failed %d", n.Failed)
	}
	if n.Unprovable > 0 {
		counts += fmt.Sprintf(", unprovable %d", n.Unprovable)
	}
	if p.lost {
		counts += "; DISCONNECTED"
	}
	lines = append(lines, p.fit(faint, counts))
	if len(i.Stuck) > 0 {
		lines = append(lines, p.fit(warning, fmt.Sprintf("  stuck: %d", max(n.Stuck, len(i.Stuck)))))
		for _, s := range i.Stuck[:min(stuckShown, len(i.Stuck))] {
			lines = append(lines, p.fit(plain, "    "+stuckFact(s).detail))
		}
	}
	return lines
}

// bar is one line of the block.
func (p *progress) bar(name string, some, all int, about string) string {
	const narrow, wide = 10, 40
	cells := min(wide, max(narrow, p.width-45))
	filled := cells
	if all > 0 {
		filled = cells * min(some, all) / all
	}
	text := fmt.Sprintf("  %-12s [%s%s]  %s", name, strings.Repeat("#", filled), strings.Repeat(".", cells-filled), of(some, all))
	if about != "" {
		text += "  " + about
	}
	color := plain
	if some >= all {
		color = good
	}
	return p.fit(color, text)
}

// fit shortens a line to the terminal, before it is coloured.
func (p *progress) fit(c tone, text string) string {
	return p.paint(c, cut(printable(text), p.width-1))
}

// about is an estimate in words.
func (p *progress) about(at time.Time, over bool) string {
	switch left := at.Sub(p.now()); {
	case at.IsZero() || over:
		return ""
	case left < time.Second:
		return "any moment"
	default:
		return "in about " + short(left.Truncate(time.Second))
	}
}

// revoking counts the versions that are being turned off, or tried whether they are.
func revoking(n client.IncidentProgress) int {
	return max(0, n.Versions-n.Contained)
}

// ofSome counts versions of all; while secrets are pending, of how many is not known.
func ofSome(some int, n client.IncidentProgress) string {
	text := of(some, n.Versions+n.Pending+n.Failed)
	if n.Pending+n.Failed > 0 {
		text += "+"
	}
	return text
}
