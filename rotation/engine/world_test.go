package engine_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/probe"
)

// world is all that is outside of the engine, and the one who decides what goes
// wrong. It lives in a bubble of package synctest: time is virtual, and of all
// goroutines only one runs at a time, so that a seed gives the same story again.
type world struct {
	mu     sync.Mutex
	seed   uint64
	rng    *rand.Rand
	rates  map[string]float64 // of each kind of fault, while faulty
	faulty bool
	down   map[string]bool // components that do not answer at all

	keyless bool // the sealer knows that what it seals would not be kept
	refused int  // sealed values that the store is still to refuse, since their key is gone

	workers int
	running *worker
	parked  []*worker
	live    []*worker // all that have not ended

	store   *memStore
	nodes   []*node
	issuers map[string]*issuerOf
	catalog map[string]issuer.Issuer
	vault   *vault
	mirror  *vault
	probe   probe.Probe
	inboxes map[string]*inbox
	told    map[string]engine.Deliverer // instead of the inboxes; nil: those
	late    []arrival

	verbose  bool
	log      []string
	names    map[string]string // short ones of ids
	wrong    []string          // invariants that did not hold
	counts   map[string]int    // of what happened
	declared bool              // an emergency was declared at some time
}

// node is one start of one process.
type node struct {
	name   string
	engine *engine.Engine
	ctx    context.Context //nolint:containedctx // of the process
	cancel context.CancelFunc
	dead   bool
	stages bool            // its vault has them
	busy   map[string]bool // records that a worker of it is at, as package engine's runs
}

// worker is a goroutine that runs one step and can be held at any point.
type worker struct {
	id     int
	name   string
	node   *node
	ch     chan struct{}
	at     string
	inTx   bool
	unsent func() // what may still arrive if the process dies now
}

type workerKey struct{}

func workerOf(ctx context.Context) *worker {
	wk, _ := ctx.Value(workerKey{}).(*worker)
	return wk
}

// arrival is a request that reaches its server although nobody waits any more.
type arrival struct {
	at   time.Time
	what string
	act  func()
}

func newWorld(seed uint64, verbose bool) *world {
	w := &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), rates: map[string]float64{}, faulty: true, down: map[string]bool{},
		issuers: map[string]*issuerOf{}, inboxes: map[string]*inbox{}, verbose: verbose, names: map[string]string{}, counts: map[string]int{}}
	w.store = &memStore{w: w, locks: map[any]*memTx{}, exclusive: w.rng.IntN(2) == 0}
	w.vault = &vault{w: w, name: "vault", gone: map[backends.VersionID]bool{}}
	w.mirror = &vault{w: w, name: "mirror", gone: map[backends.VersionID]bool{}}
	// Every run has its own mixture: many faults of few kinds find what few faults
	// of all kinds hide.
	for _, kind := range faultKinds {
		w.rates[kind] = []float64{0, 0, 0, 0.02, 0.08, 0.25}[w.rng.IntN(6)]
	}
	return w
}

var faultKinds = []string{"park", "store", "seal", "noise", "flap", "skew",
	"issuer lost", "issuer unanswered", "issuer late", "issuer refused",
	"vault lost", "vault unanswered", "vault late", "vault refused",
	"mirror lost", "mirror unanswered", "mirror late", "mirror refused",
	"consumer lost", "consumer unanswered", "consumer refused"}

// chance draws whether something of this kind goes wrong now.
func (w *world) chance(kind string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.draw(kind)
}

func (w *world) draw(kind string) bool {
	if !w.faulty || w.rates[kind] == 0 || w.rng.Float64() >= w.rates[kind] {
		return false
	}
	w.counts[kind]++
	return true
}

// fails is chance for what only workers suffer from.
func (w *world) fails(ctx context.Context, kind string) bool {
	return workerOf(ctx) != nil && w.chance(kind)
}

// hashed is a number from 0 to 1.
func hashed(parts ...any) float64 {
	h := fnv.New64a()
	fmt.Fprint(h, parts...)
	return float64(h.Sum64()>>11) / (1 << 53)
}

func (w *world) logf(ctx context.Context, format string, args ...any) {
	if !w.verbose {
		return
	}
	who := ""
	if wk := workerOf(ctx); wk != nil {
		who = fmt.Sprintf("#%d %s: ", wk.id, wk.name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	line := time.Now().UTC().Format("02 15:04:05.000 ") + who + fmt.Sprintf(format, args...)
	w.log = append(w.log, line)
}

// violated records that an invariant does not hold.
func (w *world) violated(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.logf(context.Background(), "!!! %s", text)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, text)
}

// short names an id as the log does.
func (w *world) short(kind, id string) string {
	if id == "" {
		return "none"
	}
	if w.names[id] == "" {
		w.names[id] = fmt.Sprintf("%s%d", kind, len(w.names)+1)
	}
	return w.names[id]
}

func (w *world) shorten(text string) string {
	for id, name := range w.names {
		text = strings.ReplaceAll(text, id, name)
	}
	return text
}

// point is where a worker may be held, or be cut off by the death of its process.
func (w *world) point(ctx context.Context, at string) {
	wk := workerOf(ctx)
	if wk == nil {
		return
	}
	w.mu.Lock()
	hold := w.running != wk || w.draw("park") // whom a timer woke waits for its turn
	w.mu.Unlock()
	if wk.node.dead {
		runtime.Goexit()
	}
	if hold {
		w.park(ctx, wk, at)
	}
}

func (w *world) park(ctx context.Context, wk *worker, at string) {
	w.logf(ctx, "is held at %s", at)
	w.mu.Lock()
	wk.at = at
	w.parked = append(w.parked, wk)
	slices.SortFunc(w.parked, func(a, b *worker) int { return a.id - b.id }) // those whom a timer woke come in any order
	w.mu.Unlock()
	<-wk.ch
	if wk.node.dead {
		w.logf(ctx, "dies at %s", at)
		runtime.Goexit()
	}
}

// wait holds a worker in any case; false if it is none.
func (w *world) wait(ctx context.Context, for_ string) bool {
	wk := workerOf(ctx)
	if wk != nil {
		w.park(ctx, wk, for_)
	}
	return wk != nil
}

// start runs fn in a worker of node n until it ends, sleeps or is held.
func (w *world) start(n *node, name, key string, fn func(context.Context) error) {
	w.workers++
	wk := &worker{id: w.workers, name: n.name + " " + name, node: n, ch: make(chan struct{})}
	n.busy[key] = true
	ctx := context.WithValue(n.ctx, workerKey{}, wk)
	w.mu.Lock()
	w.running = wk
	w.live = append(w.live, wk)
	w.mu.Unlock()
	go func() {
		defer func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			delete(n.busy, key)
			w.live = without(w.live, wk)
		}()
		if err := fn(ctx); err != nil {
			w.logf(ctx, "%v", err)
		}
	}()
	synctest.Wait()
}

// resume lets a held worker go on until it ends, sleeps or is held again.
func (w *world) resume(wk *worker) {
	w.mu.Lock()
	w.parked = without(w.parked, wk)
	w.running = wk
	w.mu.Unlock()
	wk.ch <- struct{}{}
	synctest.Wait()
}

func without(all []*worker, gone *worker) []*worker {
	var out []*worker
	for _, wk := range all {
		if wk != gone {
			out = append(out, wk)
		}
	}
	return out
}

// inTx runs a transaction's function; effects inside are a violation (rule 4).
func (w *world) inTx(ctx context.Context, fn func() error) error {
	wk := workerOf(ctx)
	if wk == nil {
		return fn()
	}
	if wk.inTx {
		w.violated("a transaction inside a transaction")
	}
	wk.inTx = true
	defer func() { wk.inTx = false }()
	return fn()
}

// longestWay is how long after it was sent a request may still arrive: a sender
// gives up after a minute, and a network does not keep a packet much longer.
func longestWay(server string) time.Duration {
	if strings.HasPrefix(server, "consumer") {
		return 30 * time.Second
	}
	return 4 * time.Minute
}

// remote is one request to another server, which may be lost on the way, arrive
// late, be refused, or be done without its answer being heard.
func (w *world) remote(ctx context.Context, server, what string, act func() error) error {
	wk := workerOf(ctx)
	if wk != nil && wk.inTx {
		w.violated("%s is asked inside a transaction", server)
	}
	kind := strings.Fields(server)[0]
	sent := time.Now()
	if wk != nil {
		wk.unsent = func() { w.arrive(what, sent.Add(longestWay(server)), act) }
	}
	w.point(ctx, what+" (sent)")
	if wk != nil {
		wk.unsent = nil
	}
	switch {
	case w.down[server]:
		err := fmt.Errorf("%w: %s is down", backends.ErrUnavailable, server)
		if kind == "issuer" && w.intn(2) == 0 {
			err = fmt.Errorf("%w: %w", issuer.ErrNotSent, err)
		}
		return err
	case time.Since(sent) > longestWay(server):
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, context.DeadlineExceeded)
	case w.fails(ctx, kind+" lost"):
		w.logf(ctx, "%s is lost", what)
		return fmt.Errorf("%w: the request was lost", backends.ErrUnavailable)
	case w.fails(ctx, kind+" late"):
		w.arrive(what, sent.Add(longestWay(server)), act)
		return fmt.Errorf("%w: no answer yet", backends.ErrUnavailable)
	case w.fails(ctx, kind+" refused"):
		class := []error{backends.ErrInvalid, backends.ErrDenied}[w.intn(2)]
		w.logf(ctx, "%s is refused: %v", what, class)
		return fmt.Errorf("%w: refused", class)
	}
	err := act()
	w.logf(ctx, "%s: %v", what, err)
	w.point(ctx, what+" (answered)")
	if w.fails(ctx, kind+" unanswered") || ctx.Err() != nil {
		w.logf(ctx, "the answer to %s is lost", what)
		return fmt.Errorf("%w: the answer was lost", backends.ErrUnavailable)
	}
	return err
}

func (w *world) intn(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

// arrive lets a request arrive later, at the latest by last.
func (w *world) arrive(what string, last time.Time, act func() error) {
	left := time.Until(last)
	if left <= 0 {
		return
	}
	after := time.Duration(w.intn(int(left/time.Millisecond))) * time.Millisecond
	w.logf(context.Background(), "%s will arrive in %s", what, after)
	w.late = append(w.late, arrival{at: time.Now().Add(after), what: what, act: func() {
		err := act()
		w.logf(context.Background(), "%s arrives late: %v", what, err)
	}})
}

// deliverLate performs the requests whose time has come.
func (w *world) deliverLate() {
	for {
		i := -1
		for j, a := range w.late {
			if !a.at.After(time.Now()) && (i < 0 || a.at.Before(w.late[i].at)) {
				i = j
			}
		}
		if i < 0 {
			return
		}
		a := w.late[i]
		w.late = append(w.late[:i:i], w.late[i+1:]...)
		a.act()
	}
}

// pass lets time go by: up to d, in steps that end where something arrives.
func (w *world) pass(d time.Duration) {
	end := time.Now().Add(d)
	for {
		next := end
		for _, a := range w.late {
			if a.at.Before(next) {
				next = a.at
			}
		}
		w.mu.Lock()
		w.running = nil
		w.mu.Unlock()
		time.Sleep(max(time.Until(next), 0))
		synctest.Wait()
		w.deliverLate()
		if !time.Now().Before(end) {
			return
		}
	}
}

var secretRef = backends.Ref{Tenant: backends.DefaultTenant, Name: "app/key"}

const secretID = "the-secret"

func (w *world) secret() rotation.Secret { s, _ := w.store.state.secrets.get(secretID); return s }

func (w *world) version(n int) (rotation.Version, bool) {
	return w.store.state.versions.get(versionKey{secretID, n})
}

func (w *world) versionOfTag(tag string) (rotation.Version, bool) {
	for _, k := range w.store.state.versions.order {
		if v := w.store.state.versions.rows[k]; v.Tag == tag {
			return v, true
		}
	}
	return rotation.Version{}, false
}

func (w *world) retirementOf(n int) (rotation.Retirement, bool) {
	for _, id := range w.store.state.retirements.order {
		if t := w.store.state.retirements.rows[id]; t.Version == n {
			return t, true
		}
	}
	return rotation.Retirement{}, false
}
