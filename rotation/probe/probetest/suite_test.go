package probetest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/probetest"
)

// endpoint takes credentials, in memory, at two addresses.
type endpoint struct {
	mu                            sync.Mutex
	good                          map[string]bool
	broken                        bool
	hung                          chan struct{} // nil: it answers
	connections, attempts, marked int
}

func (e *endpoint) set(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

func (e *endpoint) count(of *int) func() int {
	return func() int {
		e.mu.Lock()
		defer e.mu.Unlock()
		return *of
	}
}

// addresses of the endpoint, of which the first is the usual one.
var addresses = []string{"192.0.2.1:443", "192.0.2.2:443"}

// tries is a probe of the endpoint, with one mistake if it is told to.
type tries struct {
	*endpoint
	wrong   string
	foreign bool // the endpoint's certificate is another's

	mu        sync.Mutex
	asked     int
	last      string
	remember  map[string]probe.Verdict
	connected bool
	canary    backends.Value
	Shown     string
}

func key(text string) backends.Value { return backends.NewValue(map[string]string{"key": text}) }

func (p *tries) Try(ctx context.Context, t probe.Try) probe.Result {
	start := time.Now()
	r := p.try(ctx, t)
	if r.Latency = max(time.Since(start), 1); p.wrong == "the latency is forgotten" {
		r.Latency = 0
	}
	return r
}

func (p *tries) try(ctx context.Context, t probe.Try) probe.Result {
	undecided := func(why string) probe.Result { return probe.Result{Verdict: probe.Inconclusive, Detail: why} }
	text := t.Value.Reveal()["key"]
	switch {
	case ctx.Err() != nil && p.wrong == "who has no time left is told of a rejection":
		return probe.Result{Verdict: probe.Rejected, Detail: "cancelled"}
	case ctx.Err() != nil:
		return undecided("cancelled")
	case text == "" && p.wrong != "nothing is tried as well":
		return undecided("no key")
	case p.foreign && p.wrong != "the certificate is not looked at":
		return undecided("the certificate is another's")
	}
	r := probe.Result{Address: addresses[0]}
	switch {
	case t.Address == "" || p.wrong == "the address is chosen anew":
	case t.Address != addresses[0] && t.Address != addresses[1]:
		return undecided("nobody listens")
	default:
		r.Address = t.Address
	}
	if p.wrong == "all share one credential" {
		p.mu.Lock()
		p.last = text
		p.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		p.mu.Lock()
		text = p.last
		p.mu.Unlock()
	}
	r.Verdict, r.Detail = p.ask(ctx, text)
	switch p.wrong {
	case "the detail quotes the credential":
		r.Detail += ": " + text
	case "what was once seen is remembered":
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.remember[text] == "" {
			p.remember[text] = r.Verdict
		}
		r.Verdict = p.remember[text]
	case "there is no detail":
		r.Detail = ""
	}
	return r
}

// ask sends a credential, on a connection of its own.
func (p *tries) ask(ctx context.Context, text string) (probe.Verdict, string) {
	if p.wrong == "a try is made twice" {
		p.arrive()
	}
	hung, broken, good := p.arrive()(text)
	if hung != nil {
		select {
		case <-hung:
		case <-ctx.Done():
			if p.wrong == "a timeout is a rejection" {
				return probe.Rejected, "no answer"
			}
			return probe.Inconclusive, "no answer"
		}
	}
	switch {
	case broken && p.wrong == "whatever is not accepted is rejected":
		return probe.Rejected, "status 500"
	case broken && p.wrong == "whatever is not rejected is accepted":
		return probe.Accepted, "status 500"
	case broken:
		return probe.Inconclusive, "status 500"
	case strings.Contains(text, "stranger") && p.wrong == "a stranger is not rejected":
		return probe.Inconclusive, "who is that"
	case strings.Contains(text, "suspended") && p.wrong != "who is suspended is rejected":
		return probe.Inconclusive, "suspended"
	case good:
		return probe.Accepted, "status 200"
	}
	return probe.Rejected, "status 401"
}

// arrive counts a request and tells what the endpoint does with it.
func (p *tries) arrive() func(text string) (hung chan struct{}, broken, good bool) {
	e := p.endpoint
	e.mu.Lock()
	defer e.mu.Unlock()
	if !p.connected {
		e.connections++
	}
	p.connected = p.wrong == "the connection is kept"
	e.attempts++
	if p.wrong != "nobody is told that it is a probe" {
		e.marked++
	}
	return func(text string) (chan struct{}, bool, bool) {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.hung, e.broken, e.good[text]
	}
}

func (p *tries) Addresses(context.Context) ([]string, error) {
	if p.wrong == "one address is enough" {
		return addresses[:1], nil
	}
	return addresses, nil
}

func (p *tries) Scope() string {
	if p.wrong == "the scope is left out" {
		return ""
	}
	return "memory"
}

func (p *tries) LockoutAfter() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wrong == "the tries that are left are told" {
		p.asked++
	}
	return 5 - p.asked
}

func (p *tries) Canary() (backends.Value, bool) {
	if p.wrong == "the canary is forgotten" {
		return backends.Value{}, false
	}
	return p.canary, !p.canary.IsZero()
}

func harness(wrong string) probetest.Harness {
	const control = "canary-control-5c"
	e := &endpoint{good: map[string]bool{"canary-good-1a": true, control: true, "canary-suspended-3b": true}}
	p := &tries{endpoint: e, wrong: wrong, remember: map[string]probe.Verdict{}, canary: key(control)}
	if wrong == "printing shows the canary" {
		p.Shown = control
	}
	return probetest.Harness{
		Probe:        p,
		Good:         key("canary-good-1a"),
		Bad:          key("canary-bad-2b"),
		Rejected:     map[string]backends.Value{"stranger": key("canary-stranger")},
		Undecided:    map[string]backends.Value{"suspended": key("canary-suspended-3b")},
		Canary:       key(control),
		LockoutAfter: 5,
		Revoke:       func() { e.set(func() { delete(e.good, "canary-good-1a") }) },
		Faults:       map[string]func(bool){"broken": func(on bool) { e.set(func() { e.broken = on }) }},
		Hang: func(on bool) {
			e.set(func() {
				if on {
					e.hung = make(chan struct{})
					return
				}
				close(e.hung)
				e.hung = nil
			})
		},
		Broken:      map[string]probe.Probe{"another's certificate": &tries{endpoint: e, wrong: wrong, foreign: true}},
		Addresses:   addresses,
		Connections: e.count(&e.connections),
		Attempts:    e.count(&e.attempts),
		Marked:      e.count(&e.marked),
	}
}

func TestMemory(t *testing.T) {
	probetest.Run(t, func(*testing.T) probetest.Harness { return harness("") })
}

// mistakes are what probes get wrong, each with the test that must notice.
var mistakes = map[string]string{
	"the latency is forgotten":                    "Verdicts",
	"there is no detail":                          "Verdicts",
	"the detail quotes the credential":            "Verdicts",
	"what was once seen is remembered":            "Revocation",
	"a stranger is not rejected":                  "OtherVerdicts",
	"who is suspended is rejected":                "OtherVerdicts",
	"whatever is not accepted is rejected":        "Faults",
	"whatever is not rejected is accepted":        "Faults",
	"a timeout is a rejection":                    "Hanging",
	"the certificate is not looked at":            "NoAnswer",
	"nothing is tried as well":                    "MissingField",
	"who has no time left is told of a rejection": "Cancelled",
	"the connection is kept":                      "FreshConnections",
	"nobody is told that it is a probe":           "FreshConnections",
	"the address is chosen anew":                  "EveryAddress",
	"one address is enough":                       "EveryAddress",
	"all share one credential":                    "Concurrent",
	"a try is made twice":                         "OneAttemptPerTry",
	"the canary is forgotten":                     "Canary",
	"printing shows the canary":                   "Canary",
	"the tries that are left are told":            "Declarations",
	"the scope is left out":                       "Declarations",
}

const mistake = "PROBETEST_MISTAKE"

// TestMistaken is run by TestSuiteNotices, and fails.
func TestMistaken(t *testing.T) {
	wrong := os.Getenv(mistake)
	if mistakes[wrong] == "" {
		t.Skip("is run by TestSuiteNotices")
	}
	probetest.Run(t, func(*testing.T) probetest.Harness { return harness(wrong) })
}

// A suite that notices nothing is worth nothing: each mistake fails the test that is
// there for it.
func TestSuiteNotices(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for wrong, test := range mistakes {
		t.Run(wrong, func(t *testing.T) {
			t.Parallel()
			run := exec.CommandContext(t.Context(), self, "-test.run", "^TestMistaken$/^"+test+"$")
			run.Env = append(os.Environ(), mistake+"="+wrong)
			out, err := run.CombinedOutput()
			var failed *exec.ExitError
			if !errors.As(err, &failed) || !strings.Contains(string(out), fmt.Sprintf("--- FAIL: TestMistaken/%s", test)) {
				t.Errorf("the test %q does not notice: %v\n%s", test, err, out)
			}
			if strings.Contains(string(out), "canary-") {
				t.Errorf("the suite shows a secret:\n%s", out)
			}
		})
	}
}
