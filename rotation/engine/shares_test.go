package engine_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/rotation/engine"
)

// entering has so many steps ask for a turn at once, and returns those that got none.
func entering(s *engine.Shares, of string, from, to int, now time.Time) (waiting []string) {
	for i := from; i < to; i++ {
		if key := fmt.Sprint(i); !s.Enter(of, key, now) {
			waiting = append(waiting, key)
		}
	}
	return waiting
}

// So many steps ask one issuer at once; the others wait for their turn, in the order in
// which they came, and those of another issuer do not.
func TestAnIssuerHasAShareOfTheWorkers(t *testing.T) {
	now := time.Unix(0, 0)
	s := engine.NewShares()
	if waiting := entering(s, "revoke a", 0, engine.ShareWidth+3, now); len(waiting) != 3 {
		t.Fatalf("%d wait, want 3", len(waiting))
	}
	if !s.Enter("revoke b", "0", now) {
		t.Error("another issuer waits for the first one")
	}
	first, second := fmt.Sprint(engine.ShareWidth), fmt.Sprint(engine.ShareWidth+1)
	if s.Enter("revoke a", first, now) {
		t.Error("who waits enters because it was woken")
	}
	if next := s.Leave("revoke a", "0", now); !slices.Equal(next, []string{first}) {
		t.Fatalf("the turn comes to %v, want %s", next, first)
	}
	if s.Enter("revoke a", "later", now) {
		t.Error("somebody who came later takes the turn of who was called")
	}
	if !s.Enter("revoke a", first, now) {
		t.Error("who was called does not get its turn")
	}
	if next := s.Leave("revoke a", first, now); !slices.Equal(next, []string{second}) {
		t.Errorf("the turn comes to %v, want %s", next, second)
	}
}

// A turn is not kept for ever for who was called and does not come.
func TestATurnThatIsNotTaken(t *testing.T) {
	now := time.Unix(0, 0)
	s := engine.NewShares()
	waiting := entering(s, "a", 0, engine.ShareWidth+2, now)
	if next := s.Leave("a", "0", now); !slices.Equal(next, waiting[:1]) {
		t.Fatalf("%v", next)
	}
	later := now.Add(6 * time.Second)
	if next := s.Leave("a", "1", later); !slices.Equal(next, waiting[1:]) {
		t.Errorf("the turn comes to %v, want %v", next, waiting[1:])
	}
	if !s.Enter("a", "another", later) {
		t.Error("a turn was lost with who did not come")
	}
}

// One that hangs gets few.
func TestAnIssuerThatHangsHasASmallerShare(t *testing.T) {
	now := time.Unix(0, 0)
	s := engine.NewShares()
	if waiting := entering(s, "a", 0, engine.HungWidth, now); len(waiting) != 0 {
		t.Fatalf("%d wait", len(waiting))
	}
	later := now.Add(engine.HangsAfter)
	if s.Enter("a", "more", later) {
		t.Error("more is begun at an issuer that hangs")
	}
	if next := s.Leave("a", "0", later); !slices.Equal(next, []string{"more"}) {
		t.Errorf("the turn comes to %v", next)
	}
	for i := 1; i < engine.HungWidth; i++ {
		s.Leave("a", fmt.Sprint(i), later)
	}
	if waiting := entering(s, "a", 100, 100+engine.HungWidth, later); len(waiting) != 0 {
		t.Errorf("it answers again, and %d wait", len(waiting))
	}
}

// Who waits is not forgotten where none of those that were called comes: another node has
// done their work. The sweep, which wakes who waits, gets the others going again.
func TestNobodyWaitsForThoseWhoNeverCome(t *testing.T) {
	now := time.Unix(0, 0)
	s := engine.NewShares()
	waiting := entering(s, "a", 0, 2*engine.ShareWidth+2, now)
	for i := range engine.ShareWidth {
		s.Leave("a", fmt.Sprint(i), now)
	}
	left := waiting[engine.ShareWidth:] // the others were called, and have nothing to do
	if s.Enter("a", left[1], now) {
		t.Error("somebody takes the turn of who was called just now")
	}
	later := now.Add(6 * time.Second)
	if !s.Enter("a", left[1], later) {
		t.Fatal("nothing is done any more at an issuer that nobody asks")
	}
	if next := s.Leave("a", left[1], later); !slices.Equal(next, left[:1]) {
		t.Errorf("the turn comes to %v, want %v", next, left[:1])
	}
}

// Who is called and has nothing to do any more gives the turn to the next, at once.
func TestATurnThatIsGivenUp(t *testing.T) {
	now := time.Unix(0, 0)
	s := engine.NewShares()
	waiting := entering(s, "a", 0, engine.ShareWidth+3, now)
	s.Leave("a", "0", now) // calls the first
	if next := s.Forget(waiting[0], "a", now); len(next) != 0 {
		t.Errorf("who keeps its turn gives it to %v", next)
	}
	if next := s.Forget(waiting[1], "", now); len(next) != 0 {
		t.Errorf("who only waited gives a turn to %v", next)
	}
	if next := s.Forget(waiting[0], "emergency a", now); !slices.Equal(next, waiting[2:]) {
		t.Errorf("the turn comes to %v, want %v", next, waiting[2:])
	}
	if !s.Enter("a", waiting[2], now) {
		t.Error("who was called instead does not get it")
	}
}
