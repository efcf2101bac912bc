package crashtest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keybroker/keybroker/broker/client"
)

// crowded is what a site has besides, where many secrets are to leak at once.
const crowded = `
emergency {
  approval_above = 0
}
`

// TestKillsDuringAnIncident kills a site again and again while all of its many secrets are
// in one emergency, and looks that it comes to the same end.
func TestKillsDuringAnIncident(t *testing.T) {
	t.Parallel()
	leaked, lasts := int(number(t, "CHAOS_LEAKED", 12)), time.Duration(number(t, "CHAOS_LEAKED_SECONDS", 5))*time.Second
	sum := newSummary(uint64(number(t, "CHAOS_SEED", time.Now().UnixNano())))
	s := newSite(t, "incidents", sum.seed, sum, nil)
	s.crowd(leaked)
	if !s.start("", "") || !s.first() {
		return
	}
	incidents := 0
	for began := time.Now(); !s.broken.Load() && (incidents < 2 || time.Since(began) < lasts); incidents++ {
		if incidents > 0 { // what an emergency has just brought is not compromised by another one
			s.renew()
		}
		s.leak([]string{client.RevokeFirst, client.ReplaceFirst}[incidents%2])
	}
	t.Logf("CHAOS_SEED=%d: %d incidents of %d secrets, %d kills, %d checks", sum.seed, incidents, len(s.subject), sum.kills(), sum.checks.Load())
}

// crowd adds secrets to the site, before it starts: keys of the broker's own, of which the
// hook is told, and of the witness.
func (s *site) crowd(n int) {
	s.t.Helper()
	var hcl strings.Builder
	hcl.WriteString(crowded)
	for i := range n {
		name, issuer, more := fmt.Sprint("many/", i), "internal", "  consumers = [\"app\"]\n  issuer \"internal\" {}\n"
		if i%2 == 1 {
			issuer, more = "keys", fmt.Sprintf("  issuer \"keys\" {\n    scopes = [%q]\n  }\n", name)
		}
		fmt.Fprintf(&hcl, "secret %q {\n  backend = \"embedded\"\n  probe = %q\n%s}\n", name, issuer, more)
		s.subject[name], s.published[name] = newSubject(name, issuer == "internal"), map[int64]publication{}
	}
	file, err := os.OpenFile(filepath.Join(s.dir, "config.hcl"), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = file.WriteString(hcl.String())
	}
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// renew rotates everything once.
func (s *site) renew() {
	for name := range s.subject {
		if err := s.rotate(name); err != nil {
			s.violation("rotating %s: %v", name, err)
			return
		}
	}
	s.settle()
}

// leak declares everything compromised, kills the daemon some times from then on, and
// waits until all of it is proven dead.
func (s *site) leak(contain string) {
	had := map[string]client.Value{}
	for name, sub := range s.subject {
		err := s.ask(func(ctx context.Context) error {
			v, err := s.client.Value(ctx, name, 0)
			had[name] = v
			return err
		})
		if err != nil || s.read(sub) != nil {
			s.violation("%s cannot be read before the emergency: %v", name, err)
			return
		}
	}
	r := client.IncidentRequest{ID: uuid.NewString(), Reason: interfering, Contain: contain, Selector: client.Selector{All: true}}
	declare := func() error {
		return s.ask(func(ctx context.Context) error {
			_, err := s.client.DeclareIncident(ctx, r)
			return err
		})
	}
	declared := false
	for range 2 + s.rng.IntN(6) {
		answered := make(chan error, 1)
		if declared {
			answered <- nil
		} else {
			go func() { answered <- declare() }()
		}
		s.killSoon()
		declared = <-answered == nil
		if s.broken.Load() {
			return
		}
	}
	if !s.restart() {
		return
	}
	if err := declare(); err != nil { // the same one, if there is one
		s.violation("declaring the emergency: %v", err)
		return
	}
	s.ended(r.ID, had)
	s.settle()
}

// killSoon lets the daemon run for a while, or to a point, kills it and starts it again.
func (s *site) killSoon() {
	record := filepath.Join(s.dir, "points")
	kind := "moment"
	s.proc.dead(time.Duration(5+s.rng.IntN(300)) * time.Millisecond)
	if !s.proc.kill() {
		s.violation("the daemon has ended by itself")
		return
	}
	s.sum.killed(kind, lastLine(record))
	at := ""
	if s.rng.IntN(3) == 0 {
		at = fmt.Sprintf("*#%d", 1+s.rng.IntN(500))
	}
	_ = os.Remove(record)
	s.start(at, record)
}

// ended waits until an incident is proven and looks what has become of what leaked.
func (s *site) ended(id string, had map[string]client.Value) {
	var inc client.Incident
	for deadline := time.Now().Add(settleWithin); inc.ProvenAt.IsZero(); time.Sleep(100 * time.Millisecond) {
		err := s.ask(func(ctx context.Context) (err error) {
			inc, err = s.client.Incident(ctx, id)
			return err
		})
		if err != nil || time.Now().After(deadline) {
			s.violation("incident %s is not over: %+v, stuck: %+v (%v)", id, inc.Progress, inc.Stuck, err)
			return
		}
	}
	if p := inc.Progress; p.Secrets != len(had) || p.Proven != p.Versions || p.Replaced != p.Secrets || inc.ContainedAt.IsZero() {
		s.violation("incident %s: %+v", id, p)
	}
	for _, t := range inc.Targets {
		was := had[t.Secret]
		if !slices.ContainsFunc(t.Versions, func(v client.IncidentVersion) bool {
			return v.Version == was.Version && v.State == client.ProvenDead
		}) {
			s.violation("%s: version %d was the current one and is not among what is proven dead: %+v", t.Secret, was.Version, t.Versions)
		}
		sub, key := s.subject[t.Secret], was.Fields["key"]
		if sub.internal {
			if works, err := s.checkKey(sub, key); works || err != nil {
				s.violation("%s: the old key works: %v (%v)", t.Secret, works, err)
			}
		} else if s.keys.revoked(key).IsZero() {
			s.violation("%s: the old key works at its issuer", t.Secret)
		}
	}
}
