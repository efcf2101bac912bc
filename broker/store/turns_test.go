package store_test

import (
	"context"
	"slices"
	"testing"

	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/engine"
)

// What contains goes before what came before it, but the others wait for eight of it at
// most; each line keeps its order.
func TestWhatContainsGoesFirst(t *testing.T) {
	turns := store.NewTurns(1)
	if err := turns.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	came := make(chan int)
	begin := func(ctx context.Context, n int) {
		waiting := turns.Waiting()
		go func() {
			if turns.Take(ctx) == nil {
				came <- n
			}
		}()
		for turns.Waiting() == waiting {
			if t.Context().Err() != nil {
				return
			}
		}
	}
	for n := range 3 {
		begin(t.Context(), n)
	}
	first := engine.First(t.Context())
	for n := 100; n < 120; n++ {
		begin(first, n)
	}
	gone, end := context.WithCancel(first)
	begin(gone, -1)
	end()
	for turns.Waiting() == 24 {
	}
	var order []int
	for range 23 {
		turns.Leave()
		order = append(order, <-came)
	}
	want := []int{100, 101, 102, 103, 104, 105, 106, 107, 0, 108, 109, 110, 111, 112, 113, 114, 115, 1, 116, 117, 118, 119, 2}
	if !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
	turns.Leave()
	if err := turns.Take(t.Context()); err != nil || turns.Waiting() != 0 {
		t.Errorf("the turn is lost: %v", err)
	}
}
