package authn_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
)

var (
	began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	here  = netip.MustParseAddr("10.1.2.3")
	there = netip.MustParseAddr("192.0.2.1")
	inner = netip.MustParsePrefix("10.0.0.0/8")
)

// records keep what is audited.
type records struct {
	mu   sync.Mutex
	all  []audit.Record
	fail error
}

func (r *records) Write(_ context.Context, rec audit.Record, _ audit.Durability) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	r.all = append(r.all, rec)
	return nil
}

func (r *records) last() audit.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) == 0 {
		return audit.Record{}
	}
	return r.all[len(r.all)-1]
}

// office is a place where callers are known.
type office struct {
	*authn.Callers
	t     *testing.T
	db    *store.DB
	log   *records
	said  bytes.Buffer
	clock time.Time
}

// openStore opens a copy of one migrated file: the migrations take long under the
// race detector.
func openStore(t *testing.T) *store.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keybroker.db")
	file, err := migrated()
	if err == nil {
		err = os.WriteFile(path, file, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Config{SQLitePath: path})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

var migrated = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "keybroker-authn-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "keybroker.db")
	db, err := store.Open(context.Background(), store.Config{SQLitePath: path})
	if err != nil {
		return nil, err
	}
	if err := db.Close(context.Background()); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

func newOffice(t *testing.T, roles ...policy.Role) *office {
	t.Helper()
	db := openStore(t)
	t.Cleanup(func() {
		if err := db.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	o := &office{t: t, db: db, log: &records{}, clock: began}
	tokens := authn.NewTokens(db, []byte("pepper"), func() time.Time { return o.clock })
	o.Callers = authn.NewCallers(tokens, o.log, hclog.New(&hclog.LoggerOptions{Output: &o.said, Level: hclog.Trace}))
	o.rules(roles...)
	return o
}

func (o *office) rules(roles ...policy.Role) {
	r := authn.Rules{Roles: map[string]*policy.Role{}, Logins: map[string]authn.LoginMethod{"corp": nil}}
	for _, role := range roles {
		r.Roles[role.Name] = &role
	}
	o.SetRules(r)
}

func (o *office) keep(rec store.Token) {
	o.t.Helper()
	if err := o.db.Update(o.t.Context(), func(tx *store.Tx) error { return tx.AddToken(o.t.Context(), rec) }); err != nil {
		o.t.Fatal(err)
	}
}

// root makes and keeps a root token.
func (o *office) root() authn.Principal {
	o.t.Helper()
	rec, text := o.MakeRoot()
	o.keep(rec)
	return o.holder(text)
}

// make makes and keeps a token.
func (o *office) make(maker authn.Principal, w authn.Wanted) (store.Token, backends.SecretString) {
	o.t.Helper()
	if w.Name == "" {
		w.Name = "test"
	}
	rec, text, err := o.Make(maker, w)
	if err != nil {
		o.t.Fatal(err)
	}
	o.keep(rec)
	return rec, text
}

// login makes and keeps the token of a login.
func (o *office) login(subject, role string) (store.Token, backends.SecretString) {
	o.t.Helper()
	rec, text := o.MakeFor(authn.Identity{Method: "corp", Subject: subject}, o.Rules().Roles[role], o.clock)
	o.keep(rec)
	return rec, text
}

func (o *office) holder(text backends.SecretString) authn.Principal {
	o.t.Helper()
	p, err := o.show(text, here)
	if err != nil {
		o.t.Fatal(err)
	}
	return p
}

func (o *office) show(text backends.SecretString, from netip.Addr) (authn.Principal, error) {
	return o.Authenticate(o.t.Context(), authn.Credentials{Token: text.Reveal(), Address: from, Request: "req"})
}

// why shows a token that is to be refused, and returns why; empty: it is accepted.
func (o *office) why(text backends.SecretString, from netip.Addr) string {
	o.t.Helper()
	_, err := o.show(text, from)
	if err == nil {
		return ""
	}
	if leaks := strings.Contains(err.Error(), text.Reveal()) || strings.Contains(o.said.String(), text.Reveal()) || strings.Contains(fmt.Sprintf("%+v", o.log.last()), text.Reveal()); leaks && text != "" {
		o.t.Error("the token is in an error, the log or the audit log")
	}
	return o.log.last().Detail["why"]
}

func (o *office) update(fn func(tx *store.Tx) error) {
	o.t.Helper()
	if err := o.db.Update(o.t.Context(), fn); err != nil {
		o.t.Fatal(err)
	}
}

// badge is a certificate method that knows certificates by their common names.
type badge struct {
	mu       sync.Mutex
	names    map[string]authn.Identity
	fail     error
	asked    int
	revision uint64
}

func (b *badge) Identify(chain []*x509.Certificate, _ time.Time) (authn.Identity, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	if b.fail != nil {
		return authn.Identity{}, b.fail
	}
	id, ok := b.names[chain[0].Subject.CommonName]
	if !ok {
		return authn.Identity{}, fmt.Errorf("%w: not one of ours", backends.ErrDenied)
	}
	return id, nil
}

func (b *badge) Revision() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.revision
}
