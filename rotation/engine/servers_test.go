package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/probe"
)

const valueField = "key"

// credential is what an issuer made.
type credential struct {
	issuer    string
	id        string
	tag       string
	value     string
	createdAt time.Time
	revokedAt time.Time       // zero: it is alive
	removed   bool            // what a soaking issuer has disabled takes no place any more
	slow      []time.Duration // after revokedAt, until each server rejects it for good
	early     []time.Duration // after createdAt, until each server accepts it
}

// accepts tells the truth of one server now.
func (w *world) accepts(c *credential, server int) bool {
	now := time.Now()
	if now.Before(c.createdAt.Add(c.early[server])) {
		return false
	}
	if c.revokedAt.IsZero() {
		return true
	}
	if !now.Before(c.revokedAt.Add(c.slow[server])) {
		return false
	}
	// While the news spreads, a server may reject and accept again.
	return hashed(w.seed, c.id, server, now.Unix()/7) >= w.rates["flap"]
}

// deadEverywhere tells whether no server will accept it any more.
func (w *world) deadEverywhere(c *credential) bool {
	if c.revokedAt.IsZero() {
		return false
	}
	for i := range c.slow {
		if time.Now().Before(c.revokedAt.Add(c.slow[i])) {
			return false
		}
	}
	return true
}

const serverCount = 3

// issuerOf is a third party's server.
type issuerOf struct {
	w       *world
	name    string
	traits  issuer.Traits
	slowest time.Duration // a revocation takes at most so long
	made    []*credential
}

// showOnce finds by tag and shows a value only once; blind cannot find either;
// prepared is given the value and makes one credential for it.
type (
	blind    struct{ *issuerOf }
	showOnce struct{ *issuerOf }
	prepared struct{ *issuerOf }
)

func (i *issuerOf) Traits() issuer.Traits { return i.traits }

func (i *issuerOf) alive() (n int) {
	for _, c := range i.made {
		if c.revokedAt.IsZero() || i.traits.Soak > 0 && !c.removed {
			n++
		}
	}
	return n
}

func (i *issuerOf) create(tag, value string) (*credential, error) {
	if i.traits.MaxLive > 0 && i.alive() >= i.traits.MaxLive {
		return nil, fmt.Errorf("%w: %d are live already", []error{backends.ErrInvalid, backends.ErrConflict}[i.w.intn(2)], i.traits.MaxLive)
	}
	c := &credential{issuer: i.name, id: fmt.Sprintf("%s-%d", i.name, len(i.made)+1), tag: tag, value: value, createdAt: time.Now()}
	if value == "" {
		c.value = "value-of-" + c.id
	}
	for range serverCount {
		var slow, early time.Duration
		if i.slowest > 0 {
			slow = time.Duration(i.w.intn(int(i.slowest)))
		}
		if i.w.faulty && i.w.rates["flap"] > 0 {
			early = time.Duration(i.w.intn(5000)) * time.Millisecond
		}
		c.slow, c.early = append(c.slow, slow), append(c.early, early)
	}
	i.made = append(i.made, c)
	v, ok := i.w.versionOfTag(tag)
	if !ok {
		i.w.violated("%s is made under a tag that no version has", c.id)
	}
	i.w.logf(context.Background(), "%s exists: version %d", c.id, v.Number)
	return c, nil
}

func (c *credential) answer() issuer.Credential {
	return issuer.Credential{Value: backends.NewValue(map[string]string{valueField: c.value}), Handle: issuer.Handle{"id": c.id}}
}

func (i *issuerOf) Issue(ctx context.Context, req issuer.Request) (cred issuer.Credential, err error) {
	err = i.w.remote(ctx, "issuer "+i.name, fmt.Sprintf("minting version %d", req.Version), func() error {
		c, err := i.create(req.Tag, "")
		if err == nil {
			cred = c.answer()
		}
		return err
	})
	return cred, err
}

func (i prepared) Prepare(req issuer.Request) (backends.Value, error) {
	return backends.NewValue(map[string]string{valueField: fmt.Sprintf("prepared-%s-%d", req.Tag, i.w.intn(1000000))}), nil
}

// Issue makes no second credential for a tag, and revives none.
func (i prepared) Issue(ctx context.Context, req issuer.Request) (cred issuer.Credential, err error) {
	value := req.Prepared.Reveal()[valueField]
	err = i.w.remote(ctx, "issuer "+i.name, fmt.Sprintf("minting version %d", req.Version), func() error {
		for _, c := range i.made {
			if c.tag == req.Tag && c.value != value {
				return fmt.Errorf("%w: another value", backends.ErrConflict)
			}
			if c.tag == req.Tag {
				cred = c.answer()
				return nil
			}
		}
		c, err := i.create(req.Tag, value)
		if err == nil {
			cred = c.answer()
		}
		return err
	})
	return cred, err
}

func (i *issuerOf) Revoke(ctx context.Context, _ issuer.Subject, h issuer.Handle) error {
	i.w.revoking(i.name, h["id"])
	return i.w.remote(ctx, "issuer "+i.name, "revoking "+h["id"], func() error {
		for _, c := range i.made {
			if c.id == h["id"] && c.revokedAt.IsZero() {
				c.revokedAt = time.Now()
			}
		}
		return nil
	})
}

func (i *issuerOf) find(ctx context.Context, tag string) (found []issuer.Found, err error) {
	err = i.w.remote(ctx, "issuer "+i.name, "finding "+tag[len(tag)-8:], func() error {
		found = nil
		for _, c := range i.made {
			if c.tag == tag && c.revokedAt.IsZero() {
				found = append(found, issuer.Found{Handle: issuer.Handle{"id": c.id}, Tag: tag})
			}
		}
		return nil
	})
	return found, err
}

func (i showOnce) Find(ctx context.Context, _ issuer.Subject, tag string) ([]issuer.Found, error) {
	return i.find(ctx, tag)
}

func (i prepared) Find(ctx context.Context, _ issuer.Subject, tag string) ([]issuer.Found, error) {
	return i.find(ctx, tag)
}

// vault is a driver whose writes are guarded; staging is one with native stages.
type vault struct {
	w       *world
	name    string
	gone    map[backends.VersionID]bool // destroyed
	values  []backends.Value            // version n is values[n-1]
	tokens  []string
	made    []time.Time
	current int // 0: none
}

type staging struct{ *vault }

func vaultID(n int) backends.VersionID {
	if n == 0 {
		return ""
	}
	return backends.VersionID(fmt.Sprint(n))
}

func (v *vault) Read(ctx context.Context, _ backends.Ref, id backends.VersionID) (value backends.Value, at backends.VersionID, err error) {
	err = v.w.remote(ctx, v.name, "reading the "+v.name, func() error {
		if id == "" {
			id = vaultID(v.current)
		}
		for n := range v.values {
			if vaultID(n+1) == id && !v.gone[id] {
				value, at = v.values[n], id
				return nil
			}
		}
		return fmt.Errorf("%w: no version %q", backends.ErrNotFound, id)
	})
	return value, at, err
}

func (v *vault) Describe(ctx context.Context, _ backends.Ref) (d backends.Description, err error) {
	err = v.w.remote(ctx, v.name, "describing the "+v.name, func() error {
		if len(v.values) == 0 {
			return fmt.Errorf("%w: no secret", backends.ErrNotFound)
		}
		d.Current = vaultID(v.current)
		for n := range v.values {
			d.Versions = append(d.Versions, backends.VersionMeta{ID: vaultID(n + 1), CreatedAt: v.made[n], Gone: v.gone[vaultID(n+1)]})
		}
		return nil
	})
	return d, err
}

func (v *vault) Publish(ctx context.Context, _ backends.Ref, w backends.Write) (id backends.VersionID, err error) {
	err = v.w.remote(ctx, v.name, fmt.Sprintf("writing version %d over %q in the %s", w.Version, w.Expect, v.name), func() error {
		if vaultID(v.current) != w.Expect {
			return fmt.Errorf("%w: it holds %d", backends.ErrConflict, v.current)
		}
		v.add(w.Value, w.Token)
		v.current = len(v.values)
		id = vaultID(v.current)
		return nil
	})
	return id, err
}

func (v *vault) Retire(ctx context.Context, _ backends.Ref, id backends.VersionID) error {
	return v.w.remote(ctx, v.name, fmt.Sprintf("retiring %q in the %s", id, v.name), func() error { return v.unserved(id) })
}

func (v *vault) Destroy(ctx context.Context, _ backends.Ref, id backends.VersionID) error {
	return v.w.remote(ctx, v.name, fmt.Sprintf("destroying %q in the %s", id, v.name), func() error {
		if err := v.unserved(id); err != nil {
			return err
		}
		for n := range v.values {
			if vaultID(n+1) == id {
				v.gone[id] = true
			}
		}
		return nil
	})
}

func (v *vault) add(value backends.Value, token string) {
	v.values, v.tokens, v.made = append(v.values, value), append(v.tokens, token), append(v.made, time.Now())
}

func (v *vault) unserved(id backends.VersionID) error {
	if vaultID(v.current) == id {
		return fmt.Errorf("%w: it is current", backends.ErrConflict)
	}
	return nil
}

func (v *vault) List(context.Context, string, string, int) ([]string, string, error) {
	return nil, "", nil
}

func (v *vault) Check(ctx context.Context) error {
	return v.w.remote(ctx, v.name, "checking the "+v.name, func() error { return nil })
}

func (v *vault) Capabilities() backends.Capabilities {
	return backends.Capabilities{Versions: true, CompareSwap: true, Destroy: true}
}

func (v staging) Stage(ctx context.Context, _ backends.Ref, w backends.Write) (id backends.VersionID, err error) {
	err = v.w.remote(ctx, v.name, fmt.Sprintf("staging version %d", w.Version), func() error {
		for n, token := range v.tokens {
			if token == w.Token && v.values[n].Equal(w.Value) {
				id = vaultID(n + 1)
				return nil
			}
		}
		v.add(w.Value, w.Token)
		id = vaultID(len(v.values))
		return nil
	})
	return id, err
}

func (v staging) Promote(ctx context.Context, _ backends.Ref, id, expect backends.VersionID) error {
	return v.w.remote(ctx, v.name, fmt.Sprintf("promoting %q over %q", id, expect), func() error {
		switch {
		case vaultID(v.current) == id:
			return nil
		case vaultID(v.current) != expect:
			return fmt.Errorf("%w: it holds %d", backends.ErrConflict, v.current)
		}
		for n := range v.values {
			if vaultID(n+1) == id {
				v.current = n + 1
				return nil
			}
		}
		return backends.ErrNotFound
	})
}

// prober asks the servers where credentials are used; canaried has a credential
// that always works there.
type (
	prober struct {
		w       *world
		lockout int
	}
	canaried struct{ prober }
)

const canary = "canary"

func (canaried) Canary() (backends.Value, bool) {
	return backends.NewValue(map[string]string{valueField: canary}), true
}

func (p prober) Addresses(ctx context.Context) ([]string, error) {
	p.w.point(ctx, "resolving")
	if p.w.down["probe"] {
		return nil, fmt.Errorf("%w: resolving", backends.ErrUnavailable)
	}
	var out []string
	for i := range serverCount {
		out = append(out, fmt.Sprintf("10.0.0.%d:443", i+1))
	}
	return out, nil
}

func (p prober) Try(ctx context.Context, t probe.Try) probe.Result {
	text, address, now := t.Value.Reveal()[valueField], t.Address, time.Now()
	server := int(hashed(p.w.seed, now.UnixNano()) * serverCount)
	if address != "" {
		_, _ = fmt.Sscanf(address, "10.0.0.%d", &server)
		server--
	}
	p.w.mu.Lock()
	out, noisy := p.w.down["probe"], p.w.faulty && p.w.rates["noise"] > 0
	rate := p.w.rates["noise"]
	p.w.mu.Unlock()
	if out || noisy && hashed(p.w.seed, "unreached", server, now.Unix()/120) < rate/2 {
		return probe.Result{Verdict: rotation.Inconclusive, Detail: "no connection"}
	}
	address = fmt.Sprintf("10.0.0.%d:443", server+1)
	if noisy && hashed(p.w.seed, "noise", server, text, now.UnixNano()) < rate {
		return probe.Result{Verdict: rotation.Inconclusive, Detail: "status 503", Address: address}
	}
	if text == canary {
		return probe.Result{Verdict: rotation.Accepted, Address: address}
	}
	for _, i := range p.w.issuers {
		for _, c := range i.made {
			if c.value == text && p.w.accepts(c, server) {
				return probe.Result{Verdict: rotation.Accepted, Address: address}
			}
		}
	}
	return probe.Result{Verdict: rotation.Rejected, Detail: "status 401", Address: address}
}

func (p prober) Scope() string     { return "GET https://api.example/me" }
func (p prober) LockoutAfter() int { return p.lockout }

// inbox is a consumer.
type inbox struct {
	w      *world
	name   string
	values bool // it is given the value itself
	// collects: it collects its messages.
	collects bool
	got      []int64
}

// Terms implements engine.Deliverer: "two" collects its messages in half of the worlds.
func (c *inbox) Terms() engine.Terms {
	t := engine.Terms{NeedsValue: c.values, Inbox: c.collects, Instances: 1}
	if c.w.seed%3 == 0 {
		t.Instances = 2
	}
	return t
}

// told checks what reaches the consumer, and in which order.
func (c *inbox) told(d rotation.Delivery) {
	if n := len(c.got); n > 0 && c.got[n-1] > d.Generation {
		c.w.violated("%s is told of generation %d after %d", c.name, d.Generation, c.got[n-1])
	}
	c.got = append(c.got, d.Generation)
	c.w.counts[string(d.Event)]++
}

// given checks the value that a message carries.
func (c *inbox) given(m engine.Message) {
	carries := c.values && m.Delivery.Event.MakesCurrent()
	if cred := c.w.credentialOf(m.Published.Tag); carries && (cred == nil || cred.value != m.Value.Reveal()[valueField]) {
		c.w.violated("%s is given another value than that of version %d", c.name, m.Published.Number)
	}
	if !carries && !m.Value.IsZero() {
		c.w.violated("%s is given a value with %s", c.name, m.Delivery.Event)
	}
}

// Compose implements engine.Deliverer.
func (c *inbox) Compose(_ context.Context, m engine.Message) (engine.Envelope, error) {
	c.given(m)
	return engine.Envelope{}, nil
}

// collect takes what waits, and acknowledges some of it.
func (c *inbox) collect(ctx context.Context, e *engine.Engine) {
	if !c.collects {
		return
	}
	instance := []string{"", "0", "1"}[c.w.intn(3)]
	began := time.Now()
	got, err := e.Collect(ctx, c.name, 1+c.w.intn(3), collector(instance, anybody))
	c.w.logf(ctx, "%s collects %d: %v", c.name, len(got), err)
	for _, m := range got {
		d := m.Delivery
		if time.Since(began) > 4*time.Second {
			return // it has hung up long ago
		}
		c.told(d)
		claim := engine.Claim{Generation: d.Generation, Instance: instance}
		if v, _ := c.w.version(d.Version); c.w.intn(2) == 0 {
			if cred := c.w.credentialOf(v.Tag); cred != nil {
				claim.Applied = true
				claim.Fingerprint = rotation.Fingerprint(d.ID, backends.NewValue(map[string]string{valueField: cred.value}))
			}
		}
		if c.w.intn(4) > 0 {
			_, err := e.Acknowledge(ctx, d.ID, claim, someone)
			c.w.logf(ctx, "%s acknowledges generation %d: %v", c.name, d.Generation, err)
		}
	}
}

// Deliver implements engine.Deliverer.
func (c *inbox) Deliver(ctx context.Context, m engine.Message) engine.Outcome {
	var out engine.Outcome
	err := c.w.remote(ctx, "consumer "+c.name, fmt.Sprintf("telling %s of %s, generation %d", c.name, m.Delivery.Event, m.Delivery.Generation), func() error {
		c.told(m.Delivery)
		c.given(m)
		return nil
	})
	switch {
	case err == nil:
		out = engine.Outcome{Received: true}
		if cred := c.w.credentialOf(m.Published.Tag); cred != nil && c.w.intn(2) == 0 {
			value := backends.NewValue(map[string]string{valueField: cred.value})
			out.Claim = &engine.Claim{Applied: true, Generation: m.Delivery.Generation, Instance: fmt.Sprint(c.w.intn(2)), Fingerprint: rotation.Fingerprint(m.Delivery.ID, value)}
		}
	case m.Delivery.Attempts >= 12:
		out = engine.Outcome{Next: -1, Detail: err.Error()}
	default:
		out = engine.Outcome{Next: rotation.Backoff(m.Delivery.Attempts, time.Minute), Detail: err.Error(), Down: c.w.intn(2) == 0}
	}
	return out
}

func (w *world) credentialOf(tag string) *credential {
	for _, i := range w.issuers {
		for _, c := range i.made {
			if c.tag == tag {
				return c
			}
		}
	}
	return nil
}

// sealer binds what it seals to its place, and may be out of reach.
type sealer struct{ w *world }

func (s sealer) call(ctx context.Context) error {
	if wk := workerOf(ctx); wk != nil && wk.inTx {
		s.w.violated("sealing inside a transaction")
	}
	s.w.point(ctx, "the sealer")
	if s.w.fails(ctx, "seal") {
		return fmt.Errorf("%w: the sealing key is out of reach", backends.ErrUnavailable)
	}
	return nil
}

// Ready implements engine.Readier.
func (s sealer) Ready(context.Context) error {
	if s.w.keyless {
		return fmt.Errorf("%w: no key that the store knows can be opened", backends.ErrUnavailable)
	}
	return nil
}

func (s sealer) Seal(ctx context.Context, plain, ad []byte) ([]byte, error) {
	return bytes.Join([][]byte{ad, plain}, []byte("|")), s.call(ctx)
}

func (s sealer) Open(ctx context.Context, sealed, ad []byte) ([]byte, error) {
	plain, ok := bytes.CutPrefix(sealed, append(bytes.Clone(ad), '|'))
	if !ok {
		return nil, fmt.Errorf("%w: sealed for another place", backends.ErrInvalid)
	}
	return bytes.Clone(plain), s.call(ctx)
}
