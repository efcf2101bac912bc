package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// committed is within how long of its tries a round is committed: as long as an effect of
// the engine may take, and once more for the store.
const committed = 2 * time.Minute

// standing is what the verdicts show of a version.
type standing struct {
	never     bool // it never existed
	contained time.Time
	proven    time.Time
	rejected  []string // verdicts of the round that contains
	proof     []string // those of the series that proves
	accepted  []string // of the last round in which it was accepted
	doubt     string   // the record says contained, and no verdict does
	unproven  string   // the record says proven, and the verdicts do not
}

// round is one of the rounds of tries that were made of a version.
type round struct {
	number     int
	from, last time.Time
	rejected   bool // by all that could be reached
	accepted   bool // by any
	controlled bool // at each of them what has to work did
	evidence   []string
}

// judge reads from the recorded verdicts whether a version is dead. What the record of
// the retirement says counts where they show it.
func (d *deriving) judge(t *Retirement) (s standing) {
	rounds, before := d.rounds(t)
	for _, r := range rounds {
		if r.accepted {
			s.accepted = r.evidence
		}
	}
	if t.NeverMade {
		s.never, s.contained = true, latest(t.RequestedAt, t.NothingAt)
		return s
	}
	dead := t.State == client.ProvenDead || t.State == client.Rejecting || !t.ContainedAt.IsZero() && !t.LastAcceptedAt.After(t.ContainedAt)
	if t.State == client.Resurrected || !dead || t.ContainedAt.IsZero() {
		return s
	}
	if r := roundAt(rounds, t.ContainedAt); r != nil && r.rejected && !acceptedAfter(rounds, t.ContainedAt) {
		s.contained, s.rejected = t.ContainedAt, r.evidence
	} else {
		s.doubt = fmt.Sprintf("its record says that it was rejected at %s, and no verdict in the report shows it", t.ContainedAt.UTC().Format(time.RFC3339))
		return s
	}
	if t.State != client.ProvenDead {
		return s
	}
	series, ok := proves(t, rounds, before)
	for _, r := range series {
		s.proof = append(s.proof, r.evidence...)
	}
	if !ok {
		s.unproven = fmt.Sprintf("its record says that it was proven dead at %s, and the verdicts in the report do not", t.ProvenAt.UTC().Format(time.RFC3339))
		return s
	}
	s.proven = t.ProvenAt
	return s
}

// proves tells whether as many controlled rejected rounds in a row as it takes, spread as
// it takes, end with the proof.
func proves(t *Retirement, rounds []round, before bool) (series []round, ok bool) {
	for _, r := range rounds {
		switch {
		case r.from.After(t.ProvenAt):
		case r.accepted:
			series = nil
		case r.rejected && (r.controlled || before && t.Control == "accepted_before"):
			series = append(series, r)
		}
	}
	need := max(t.Required.Rejections, 1)
	if len(series) < need || t.ProvenAt.IsZero() {
		return series, false
	}
	window := time.Duration(t.Required.WindowMS) * time.Millisecond
	first, last := roundAt(series, t.SeriesFrom), roundAt(series, t.SeriesTo)
	if first == nil || last == nil || t.SeriesTo.Sub(t.SeriesFrom) < window || t.ProvenAt.Before(t.SeriesTo) {
		return series, false
	}
	for len(series) > 0 && series[0].number != first.number { // before a server came into reach, say
		series = series[1:]
	}
	return series, len(series) >= need
}

// roundAt is the round that was committed at a time.
func roundAt(rounds []round, at time.Time) *round {
	for i := len(rounds) - 1; i >= 0; i-- {
		if r := &rounds[i]; !r.from.After(at) {
			if at.Sub(r.last) > committed {
				return nil
			}
			return r
		}
	}
	return nil
}

func acceptedAfter(rounds []round, at time.Time) bool {
	for _, r := range rounds {
		if r.accepted && r.from.After(at) {
			return true
		}
	}
	return false
}

// rounds puts the verdicts of a retirement together, and tells whether the version was
// accepted before it was revoked.
func (d *deriving) rounds(t *Retirement) (rounds []round, before bool) {
	for i := 0; i < len(t.Tries); {
		n := i
		for n < len(t.Tries) && t.Tries[n].Round == t.Tries[i].Round {
			n++
		}
		tries := t.Tries[i:n]
		r := round{number: tries[0].Round, from: tries[0].At, last: tries[0].At}
		subject := ""
		for k, l := range tries {
			r.evidence = append(r.evidence, fmt.Sprintf("try:%s/%d", t.ID, i+k+1))
			if at := d.logged(t.ID, l); at != "" {
				r.evidence = append(r.evidence, at)
			} else if l.Purpose != client.PurposeByHand {
				d.unlogged++
			}
			if l.At.Before(r.from) {
				r.from = l.At
			}
			if l.At.After(r.last) {
				r.last = l.At
			}
			if l.Purpose != client.PurposeControl {
				subject = l.Purpose
			}
		}
		i = n
		if subject == client.PurposeBefore {
			before = before || accepts(tries)
			continue
		}
		if subject == client.PurposeDeath || subject == client.PurposeRecheck {
			r.judge(tries)
			rounds = append(rounds, r)
		}
	}
	return rounds, before
}

func accepts(tries []client.Try) bool {
	for _, l := range tries {
		if l.Purpose != client.PurposeControl && l.Verdict == client.Accepted {
			return true
		}
	}
	return false
}

// judge gives the verdict of a round: rotation.Judge has the rule. An address at which
// nothing answered either is out of reach and says nothing.
func (r *round) judge(tries []client.Try) {
	controls := map[string]string{}
	for _, l := range tries {
		if l.Purpose == client.PurposeControl {
			controls[l.Address] = l.Verdict
		}
	}
	reached := 0
	r.rejected, r.controlled = true, len(controls) > 0
	for _, l := range tries {
		if l.Purpose == client.PurposeControl {
			continue
		}
		control := controls[l.Address]
		r.accepted = r.accepted || l.Verdict == client.Accepted
		if l.Verdict == client.Inconclusive && (control == client.Inconclusive || control == "") {
			continue
		}
		reached++
		r.rejected = r.rejected && l.Verdict == client.Rejected && (control == client.Accepted || control == "")
		r.controlled = r.controlled && control == client.Accepted
	}
	r.rejected = r.rejected && reached > 0 && !r.accepted
	r.controlled = r.controlled && reached > 0
}

// logged is the line of the log that tells of a verdict, if it says the same.
func (d *deriving) logged(retirement string, l client.Try) string {
	round := ""
	if l.Round > 0 {
		round = strconv.Itoa(l.Round)
	}
	return d.tries[strings.Join([]string{retirement, round, l.Purpose, l.Address, l.Verdict, l.At.UTC().Format(time.RFC3339Nano), strconv.Itoa(l.Version)}, "|")]
}
