package broker

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// Who reads counts for the consumers of the secret that have its role and are of its
// tenant, whatever the configuration lets there be: at once, and then once a minute.
func TestWhoseReadCounts(t *testing.T) {
	db, err := store.Open(t.Context(), store.Config{SQLitePath: filepath.Join(t.TempDir(), "keybroker.db"), Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	began := time.Date(2031, 3, 9, 1, 59, 58, 0, time.UTC)
	now := began
	clock := func() time.Time { return now }
	b := New(Config{Store: db, Engine: &engine.Engine{}, Logger: hclog.NewNullLogger(), Now: clock,
		Authn: authn.NewCallers(authn.NewTokens(db, []byte("pepper"), clock), nil, hclog.NewNullLogger())})
	b.SetRules(Rules{Consumers: map[string]Consumer{
		"shop":     {Tenant: "acme", Role: "shop"},
		"backup":   {Tenant: "acme", Role: "shop"},
		"other":    {Tenant: "acme", Role: "other"},
		"foreign":  {Tenant: "globex", Role: "shop"},
		"roleless": {Tenant: "acme"},
		"unlisted": {Tenant: "acme", Role: "shop"},
	}})
	s := rotation.Secret{ID: "s", Origin: rotation.OriginConfig, State: rotation.SecretActive, Ref: backends.Ref{Tenant: "acme", Name: "app/key"},
		Definition: rotation.Definition{Consumers: []string{"shop", "backup", "other", "foreign", "roleless", "gone"}}}
	if err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.AddSecret(t.Context(), &s) }); err != nil {
		t.Fatal(err)
	}
	s.Generation = 3
	after := func(role string, version int, after time.Duration, want string) {
		t.Helper()
		now = began.Add(after)
		b.noteRead(t.Context(), authn.Principal{Role: role}, s, version, true)
		got := ""
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			reads, err := tx.ConsumerReads(t.Context(), s.ID)
			for _, r := range reads {
				got += fmt.Sprintf("%s %d %s..%s, ", r.Consumer, r.Version, r.FirstAt.Sub(began), r.LastAt.Sub(began))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("after a read of version %d as %q: %s, want %s", version, role, got, want)
		}
	}
	after("", 2, 0, "")
	after("nobody", 2, 0, "")
	after("shop", 2, 0, "backup 2 0s..0s, shop 2 0s..0s, ")
	after("shop", 2, 59*time.Second, "backup 2 0s..0s, shop 2 0s..0s, ")
	after("shop", 2, 61*time.Second, "backup 2 0s..1m1s, shop 2 0s..1m1s, ")
	after("other", 1, 62*time.Second, "backup 2 0s..1m1s, other 1 1m2s..1m2s, shop 2 0s..1m1s, ")
	s.Generation = 4 // a version that is current once more is fetched once more
	after("shop", 2, 63*time.Second, "backup 2 0s..1m3s, other 1 1m2s..1m2s, shop 2 0s..1m3s, ")

	now = began.Add(64 * time.Second)
	for range 2 { // of one who is no consumer, too, but only once a minute
		b.noteRead(t.Context(), authn.Principal{ID: "tok_1", Identity: "corp/alice", Address: netip.MustParseAddr("10.0.0.7")}, s, 2, true)
		now = now.Add(time.Second)
	}
	var reads []store.Read
	if err := db.View(t.Context(), func(tx *store.Tx) (err error) {
		reads, err = tx.Reads(t.Context(), s.ID, 2, 10)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	at := began.Add(64 * time.Second)
	if len(reads) != 4 || reads[0] != (store.Read{SecretID: s.ID, Version: 2, Who: "corp/alice", Actor: "tok_1", Address: netip.MustParseAddr("10.0.0.7"), FirstAt: at, LastAt: at}) {
		t.Errorf("who was given version 2: %+v", reads)
	}

	hot := func() {
		b.noteRead(t.Context(), authn.Principal{Role: "shop"}, s, 2, true)
	}
	hot()
	if allocs := testing.AllocsPerRun(100, hot); allocs > 0 {
		t.Errorf("a read that is kept already takes %v allocations", allocs)
	}
}

// Those who read first at the same time all wait until it is kept; while nothing can be,
// they are served, and it is tried again with a later read.
func TestFirstReads(t *testing.T) {
	b, db, s, clock, path := newReading(t)
	ctx := t.Context()
	who := authn.Principal{ID: "tok_1", Role: "shop"}
	kept := func() int { return len(readsOf(t, db, s.ID, 1)) }
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			b.noteRead(ctx, who, s, 1, true)
			if kept() != 1 {
				t.Error("somebody was served before it was kept")
			}
		})
	}
	all.Wait()
	if len(b.reads.begun) != 0 {
		t.Errorf("left: %v", b.reads.begun)
	}

	gone, cancel := context.WithCancel(ctx)
	cancel()
	b.noteRead(gone, authn.Principal{ID: "tok_2"}, s, 1, true) // who leaves has had it, maybe
	if kept() != 2 {
		t.Error("the read of who was gone is not kept")
	}

	file, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(20000)")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	broken := func(name, as string) {
		t.Helper()
		if _, err := file.ExecContext(ctx, "ALTER TABLE "+name+" RENAME TO "+as); err != nil {
			t.Fatal(err)
		}
	}
	broken("reads", "away")
	b.noteRead(ctx, authn.Principal{ID: "tok_3"}, s, 1, true)
	broken("away", "reads")
	b.noteRead(ctx, authn.Principal{ID: "tok_3"}, s, 1, true)
	if kept() != 2 {
		t.Error("it was tried again at once")
	}
	*clock = clock.Add(2 * noteAgain)
	b.noteRead(ctx, authn.Principal{ID: "tok_3"}, s, 1, true)
	if kept() != 3 {
		t.Error("it was not tried again")
	}
}

// What a role has is what it read, and what its consumers were sent.
func TestWhatARoleHas(t *testing.T) {
	b, db, s, clock, _ := newReading(t)
	ctx, at := t.Context(), *clock
	b.SetRules(Rules{Consumers: map[string]Consumer{
		"shop":  {Tenant: "acme", Role: "shop"},
		"queue": {Tenant: "acme", Role: "shop", Inbox: true},
		"other": {Tenant: "acme", Role: "other"},
	}})
	sent := func(consumer string, version int, received time.Time) {
		t.Helper()
		d := rotation.Delivery{ID: fmt.Sprint(consumer, version), SecretID: s.ID, Ref: s.Ref, Consumer: consumer, Event: rotation.EventRotated, Version: version, Generation: int64(version), CreatedAt: at}
		if err := db.Update(ctx, func(tx *store.Tx) error {
			if err := tx.AddDelivery(ctx, &d); err != nil {
				return err
			}
			d.Attempts, d.ReceivedAt = 1, received
			return tx.SaveDelivery(ctx, &d)
		}); err != nil {
			t.Fatal(err)
		}
	}
	b.noteRead(ctx, authn.Principal{ID: "tok_1", Role: "shop", Address: netip.MustParseAddr("10.0.0.7")}, s, 1, true)
	sent("shop", 2, at.Add(time.Hour))
	sent("shop", 3, time.Time{})  // it did not say that it had it
	sent("queue", 4, time.Time{}) // it was handed out
	sent("other", 5, at.Add(time.Hour))
	waits := rotation.Delivery{ID: "waits", SecretID: s.ID, Ref: s.Ref, Consumer: "shop", Event: rotation.EventRotated, Version: 6, Generation: 6, CreatedAt: at}
	if err := db.Update(ctx, func(tx *store.Tx) error { return tx.AddDelivery(ctx, &waits) }); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		who, address string
		since        time.Time
		tenant       string
		want         []int
	}{
		"ever":               {who: "shop", want: []int{1, 2, 3, 4}},
		"since":              {who: "shop", since: at.Add(10 * time.Minute), want: []int{2, 3, 4}},
		"in the same minute": {who: "shop", since: at.Add(30 * time.Second), want: []int{1, 2, 3, 4}}, // it may have been read again
		"somebody else":      {who: "other", want: []int{5}},
		"at an address":      {address: "10.0.0.0/8", want: []int{1}},
		"both":               {who: "shop", address: "10.0.0.7", want: []int{1}},
		"elsewhere":          {who: "shop", address: "192.0.2.1"},
		"of another tenant":  {who: "shop", tenant: "globex"},
		"of its own":         {who: "shop", tenant: "acme", want: []int{1, 2, 3, 4}},
	} {
		var got map[string][]int
		if err := db.View(ctx, func(tx *store.Tx) (err error) {
			got, err = b.readBy(ctx, tx, authn.Principal{Tenant: tt.tenant}, tt.who, tt.address, tt.since)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(got[s.ID])
		if !slices.Equal(got[s.ID], tt.want) || len(got) > 1 {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	for _, wrong := range []string{"10.0.0", "10.0.0.7/8", "::ffff:10.0.0.0/104", "x"} {
		err := db.View(ctx, func(tx *store.Tx) error {
			_, err := b.readBy(ctx, tx, authn.Principal{}, "", wrong, time.Time{})
			return err
		})
		if !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	had := func(version int) (texts []string) {
		if err := db.View(ctx, func(tx *store.Tx) error {
			all, err := b.accesses(ctx, tx, s, version, 10)
			for _, a := range all {
				texts = append(texts, fmt.Sprintf("%s %s %s %s %s %t", a.Actor, a.Identity, a.Role, a.Address, a.Consumer, a.Unanswered))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return texts
	}
	for version, want := range map[int]string{1: "tok_1  shop 10.0.0.7  false", 2: "keybroker  shop  shop false", 3: "keybroker  shop  shop true", 4: "keybroker  shop  queue false"} {
		if got := had(version); len(got) != 1 || got[0] != want {
			t.Errorf("who had version %d: %q, want %q", version, got, want)
		}
	}
	if got := had(6); got != nil {
		t.Errorf("what was not sent: %q", got)
	}
}

// newReading is a broker with one secret in a store of its own.
func newReading(t *testing.T) (b *Broker, db *store.DB, s rotation.Secret, now *time.Time, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "keybroker.db")
	db, err := store.Open(t.Context(), store.Config{SQLitePath: path, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.Background()) })
	at := time.Date(2031, 3, 9, 1, 59, 58, 0, time.UTC)
	clock := func() time.Time { return at }
	fingerprint := func(tenant, text string) string { return tenant + "/" + text }
	b = New(Config{Store: db, Engine: engine.New(engine.Config{Fingerprint: fingerprint, Logger: hclog.NewNullLogger()}), Logger: hclog.NewNullLogger(), Now: clock,
		Authn: authn.NewCallers(authn.NewTokens(db, []byte("pepper"), clock), nil, hclog.NewNullLogger())})
	s = rotation.Secret{ID: "s", Origin: rotation.OriginConfig, State: rotation.SecretActive, Ref: backends.Ref{Tenant: "acme", Name: "app/key"}}
	if err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.AddSecret(t.Context(), &s) }); err != nil {
		t.Fatal(err)
	}
	return b, db, s, &at, path
}

func readsOf(t *testing.T, db *store.DB, secretID string, version int) (reads []store.Read) {
	t.Helper()
	if err := db.View(t.Context(), func(tx *store.Tx) (err error) {
		reads, err = tx.Reads(t.Context(), secretID, version, 100)
		return err
	}); err != nil {
		t.Error(err)
	}
	return reads
}

// BenchmarkNoteRead is what each read costs that is known to be kept.
func BenchmarkNoteRead(b *testing.B) {
	known := newReads()
	broker := &Broker{Config: Config{Now: time.Now}, reads: known}
	s := rotation.Secret{ID: "01a204b9-d76e-767c-b644-dfd460a62dda", Generation: 7}
	p := authn.Principal{ID: "tok_1", Identity: "corp/alice", Role: "shop", Address: netip.MustParseAddr("10.0.0.7")}
	known.known.Add(readKey{secretID: s.ID, version: 2, generation: 7, who: p.Identity, role: p.Role, address: p.Address, fetched: true}, time.Now().Add(time.Hour))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			broker.noteRead(context.Background(), p, s, 2, true)
		}
	})
}
