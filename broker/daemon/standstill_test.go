package daemon_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// TestEventsCannotBringTheCompanyToAStandstill: who holds the token of a trigger sends
// CHAOS_EVENTS events from many addresses: of all secrets by name, of values that live and of
// those that are dead, each under an id of its own and some over and over.
func TestEventsCannotBringTheCompanyToAStandstill(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes a while")
	}
	const secrets, most, senders = 30, 5, 16
	events := int64(numberIn(t, "CHAOS_EVENTS", 500))
	p := newPager(t)
	s := alerted(t, hooked(secrets, most, "1h"), p)
	s.env["HOOK_TOKEN"] = hookToken
	n := s.start()
	ctx := t.Context()
	n.done(t, "app/key")
	dead := n.value(t, "app/key").Fields["key"]
	n.rotate(t, "app/key")
	var begun sync.WaitGroup
	turn := make(chan struct{}, 16)
	for i := range secrets {
		begun.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			n.done(t, fmt.Sprintf("app/s%d", i))
		})
	}
	begun.Wait()
	living := make([]string, secrets)
	for i := range living {
		living[i] = n.value(t, fmt.Sprintf("app/s%d", i)).Fields["key"]
	}
	audited := len(auditLines(s))

	// Somebody works meanwhile.
	stop := make(chan struct{})
	var served, failed atomic.Int64
	var working sync.WaitGroup
	working.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := n.Value(ctx, fmt.Sprintf("app/s%d", i%secrets), 0); err != nil && client.Status(err) != http.StatusServiceUnavailable { // 503: one of those that are replaced
				failed.Add(1)
			} else {
				served.Add(1)
			}
		}
	})
	var mu sync.Mutex
	statuses := map[int]int{}
	var wg sync.WaitGroup
	var next atomic.Int64
	for k := range senders {
		c := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(k+1))}}).DialContext, MaxIdleConnsPerHost: 1}}
		wg.Go(func() {
			defer c.CloseIdleConnections()
			for i := next.Add(1); i <= events; i = next.Add(1) {
				r := leak(strconv.FormatInt(i, 10), []string{fmt.Sprintf("app/s%d", i%secrets)})
				switch i % 4 {
				case 1:
					r = leak(strconv.FormatInt(i, 10), nil, dead)
				case 2:
					r = leak(strconv.FormatInt(i, 10), nil, living[i%secrets])
				case 3:
					r.ID = strconv.FormatInt(i%10, 10) // over and over
				}
				status, _ := n.send(t, c, []string{"leaks", "siem"}[i/4%2], hookToken, r)
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	close(stop)
	working.Wait()

	for status, count := range statuses {
		if status != http.StatusAccepted && status != http.StatusTooManyRequests {
			t.Errorf("%d times %d", count, status)
		}
	}
	if statuses[http.StatusAccepted] == 0 || served.Load() < 10 || failed.Load() > 0 {
		t.Errorf("events %v; %d reads were served, %d failed", statuses, served.Load(), failed.Load())
	}
	if touched := touchedBy(t, n, secrets); len(touched) > 2*most {
		t.Errorf("%d secrets were touched: %v", len(touched), touched)
	}
	if v := n.value(t, "app/key"); v.Version != 2 {
		t.Errorf("a dead value had its secret replaced: version %d", v.Version)
	}
	kept := 0
	for _, name := range []string{"leaks", "siem"} {
		one := must(n.Trigger(ctx, name))(t)
		if kept += one.Events; one.ActedLately > most || one.Held > 1000 {
			t.Errorf("the trigger is %+v", one)
		}
		exceeded(t, n, name)
	}
	if kept > statuses[http.StatusAccepted] {
		t.Errorf("%d events are kept of %d that were taken", kept, statuses[http.StatusAccepted])
	}
	eventually(t, "people to be told", p.was("raised trigger_exceeded"))
	p.mu.Lock()
	pages := 0
	for _, told := range p.told {
		if strings.HasSuffix(told, "trigger_exceeded") || strings.HasSuffix(told, "emergency_proposed") {
			pages++
		}
	}
	p.mu.Unlock()
	if pages > 2 { // once of each trigger
		t.Errorf("people were paged %d times", pages)
	}
	if more := len(auditLines(s)) - audited; more > 2000+2*int(served.Load()) {
		t.Errorf("the audit log has %d more lines", more)
	}
	t.Logf("%v; %d events kept; %d reads served meanwhile; %d lines audited", statuses, kept, served.Load(), len(auditLines(s))-audited)
}

// auditLines are those of the log of the node by now.
func auditLines(s *site) []string {
	return strings.Split(strings.TrimSpace(s.read(filepath.Join("data", "audit.jsonl"))), "\n")
}

// numberIn is a number from the environment, or another one.
func numberIn(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q, not a number from 1", name, text)
	}
	return n
}
