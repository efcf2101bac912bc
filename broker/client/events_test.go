package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

func rotationEvent(state string) string {
	return fmt.Sprintf("event: rotation\nid: 1\ndata: {\"id\":\"r1\",\"state\":%q}\n\n", state)
}

// streams answers each opening with the next of the given bodies, after a status.
func streams(t *testing.T, bodies ...string) *client.Client {
	t.Helper()
	var opened atomic.Int32
	return connect(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		n := int(opened.Add(1)) - 1
		if n >= len(bodies) {
			t.Errorf("opened %d times", n+1)
			return
		}
		if bodies[n] == "503" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, bodies[n])
	}), "")
}

func follow(ctx context.Context, c *client.Client) (types []string, last error) {
	for e, err := range c.WatchRotation(ctx, "r1") {
		if err != nil {
			return types, err
		}
		name := e.Type
		if e.Rotation != nil {
			name += " " + e.Rotation.State
		}
		types = append(types, name)
	}
	return types, nil
}

func TestWatchOpensABrokenStreamAgain(t *testing.T) {
	c := streams(t,
		": hello\n\n"+rotationEvent("minting"),
		"503",
		rotationEvent("overlap")+"event: novelty\ndata: 1\n\n"+rotationEvent("done")+"event: end\ndata: {}\n\n",
	)
	got, err := follow(t.Context(), c)
	want := []string{"rotation minting", "interrupted", "interrupted", "rotation overlap", "rotation done", "end"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWatchThatNeverOpenedIsAnError(t *testing.T) {
	if got, err := follow(t.Context(), streams(t, "503")); client.Status(err) != 503 || got != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestWatchWaitsWhereThereAreTooManyRequests, however little time is over when they are.
func TestWatchWaitsWhereThereAreTooManyRequests(t *testing.T) {
	var opened atomic.Int32
	var at [3]time.Time
	c := connect(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		n := int(opened.Add(1)) - 1
		if n < len(at) {
			at[n] = time.Now()
		}
		if n < 2 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, rotationEvent("done")+"event: end\ndata: {}\n\n")
	}), "")
	got, err := follow(t.Context(), c)
	if want := []string{"interrupted", "interrupted", "rotation done", "end"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	for i := range 2 {
		if waited := at[i+1].Sub(at[i]); waited < time.Second {
			t.Errorf("it was asked again after %s", waited)
		}
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	release := make(chan struct{})
	defer close(release)
	c := connect(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, rotationEvent("overlap"))
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}), "")
	var seen int
	var last error
	for e, err := range c.WatchRotation(ctx, "r1") {
		if seen++; e.Type == client.EventRotation {
			cancel()
		}
		last = err
	}
	if seen != 2 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d events, %v", seen, last)
	}
}

func TestWatchCanBeLeft(t *testing.T) {
	for e := range streams(t, rotationEvent("minting")+rotationEvent("done")).WatchRotation(t.Context(), "r1") {
		if e.Rotation.State != "minting" {
			t.Errorf("%+v", e)
		}
		break
	}
}

func TestWatchOfSomethingElse(t *testing.T) {
	for _, body := range []string{"event: rotation\ndata: nonsense\n\n", "event: rotation\ndata: {\"id\": 1}\n\n"} {
		if _, err := follow(t.Context(), streams(t, body)); err == nil {
			t.Errorf("%q was taken", body)
		}
	}
	c := connect(t, serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }), "")
	if _, err := follow(t.Context(), c); err == nil {
		t.Error("an answer that is no stream was taken")
	}
}
