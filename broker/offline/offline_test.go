package offline_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/offline"
	"github.com/keybroker/keybroker/rotation/issuer"
)

const canary = "CANARY-0ff11ce0"

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func version(n int, issuer string) offline.Version {
	v := offline.Version{Number: n, Stage: "current", Issuer: issuer, Handle: map[string]string{"id": fmt.Sprintf("%s-%d", issuer, n)}}
	v.ByHand = offline.ByHand(issuer, issuer, v)
	return v
}

// written is a kit of n secrets of the issuer "http", two of other kinds, as a file.
func written(t *testing.T, id *age.X25519Identity, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	k, err := offline.NewWriter(&out, []age.Recipient{id.Recipient()}, offline.Header{MadeAt: time.Now(), Installation: "here", Credentials: true})
	if err != nil {
		t.Fatal(err)
	}
	errs := []error{
		k.Issuer(offline.Issuer{Name: "http", Type: "http", Material: offline.Material{Env: map[string]string{"TOKEN": canary}}}),
		k.Issuer(offline.Issuer{Name: "api_key", Type: "api_key"}),
		k.Issuer(offline.Issuer{Name: "human", Type: "human"}),
		k.Consumer(offline.Consumer{Name: "shop", Kind: "webhook", Where: "https://shop.example"}),
		k.Secret(offline.Secret{Tenant: "default", Name: "own/key", Labels: map[string]string{"team": "own"}, Versions: []offline.Version{version(1, "api_key")}}),
		k.Secret(offline.Secret{Tenant: "acme", Name: "bank/login", Versions: []offline.Version{version(1, "human")}}),
	}
	for i := range n {
		errs = append(errs, k.Secret(offline.Secret{Tenant: "default", Name: fmt.Sprintf("mail/%d", i), Backend: "vault", Consumers: []string{"shop"}, Current: 2, Last: 2,
			Versions: []offline.Version{version(1, "http"), version(2, "http")}}))
	}
	if err := errors.Join(append(errs, k.Close())...); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func read(t *testing.T, n int) *offline.Kit {
	t.Helper()
	id := identity(t)
	k, err := offline.Read(bytes.NewReader(written(t, id, n)), strings.NewReader("# mine\n"+id.String()+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAKitOpensWithItsKeyAndWhole(t *testing.T) {
	t.Parallel()
	id := identity(t)
	text := written(t, id, 3)
	if bytes.Contains(text, []byte("mail/")) || bytes.Contains(text, []byte(canary)) {
		t.Error("it is no secret")
	}
	k, err := offline.Read(bytes.NewReader(text), strings.NewReader(id.String()))
	if err != nil || len(k.Secrets) != 5 || len(k.Issuers) != 3 || len(k.Consumers) != 1 || k.Issuers[0].Material.Env["TOKEN"] != canary {
		t.Fatalf("%+v, %v", k, err)
	}
	if _, err := offline.Read(bytes.NewReader(text), strings.NewReader(identity(t).String())); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("with another key: %v", err)
	}
	if _, err := offline.Read(bytes.NewReader(text), strings.NewReader("AGE-SECRET-KEY-1"+canary)); !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
		t.Errorf("with what is no key: %v", err)
	}
	for at := range text { // cut off anywhere
		if _, err := offline.Read(bytes.NewReader(text[:at]), strings.NewReader(id.String())); !errors.Is(err, backends.ErrInvalid) {
			t.Fatalf("the first %d bytes of it: %v", at, err)
		}
	}
	for at := 0; at < len(text); at += 7 {
		edited := slices.Clone(text)
		edited[at] ^= 1
		if _, err := offline.Read(bytes.NewReader(edited), strings.NewReader(id.String())); err == nil {
			t.Fatalf("with byte %d changed it is read", at)
		}
	}
}

func TestAKitWithoutItsEndIsNone(t *testing.T) {
	t.Parallel()
	id := identity(t)
	var out bytes.Buffer
	encrypted, err := age.Encrypt(&out, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := encrypted.Write([]byte("no kit")); err != nil {
		t.Fatal(err)
	}
	if err := encrypted.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := offline.Read(&out, strings.NewReader(id.String())); !errors.Is(err, backends.ErrInvalid) {
		t.Error(err)
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	k := read(t, 2)
	for _, c := range []struct {
		choice offline.Choice
		want   int
		err    error
	}{
		{offline.Choice{All: true}, 6, nil},
		{offline.Choice{Names: []string{"mail/0"}}, 2, nil},
		{offline.Choice{Names: []string{"mail/0"}, Versions: []int{1}}, 1, nil},
		{offline.Choice{Names: []string{"acme:bank/login"}}, 1, nil},
		{offline.Choice{Names: []string{"bank/login"}, Tenant: "acme"}, 1, nil},
		{offline.Choice{Names: []string{"own/key"}, Patterns: []string{"mail/*"}}, 5, nil},
		{offline.Choice{Patterns: []string{"*"}, Consumer: "shop"}, 4, nil},
		{offline.Choice{Labels: map[string]string{"team": "own"}}, 1, nil},
		{offline.Choice{Issuer: "human"}, 1, nil},
		{offline.Choice{Backend: "vault"}, 4, nil},
		{offline.Choice{}, 0, backends.ErrInvalid},
		{offline.Choice{All: true, Tenant: "acme"}, 0, backends.ErrInvalid},
		{offline.Choice{Patterns: []string{"{{x}}/"}}, 0, backends.ErrInvalid},
		{offline.Choice{Names: []string{"bank/login"}}, 0, backends.ErrNotFound},
		{offline.Choice{Names: []string{"mail/0"}, Versions: []int{7}}, 0, backends.ErrNotFound},
		{offline.Choice{Tenant: "nobody"}, 0, backends.ErrNotFound},
	} {
		items, err := k.Choose(c.choice)
		if len(items) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%+v: %d, %v", c.choice, len(items), err)
		}
	}
}

// scripted is an issuer that answers as it is told.
type scripted struct {
	issuer.Issuer
	revoke func(ctx context.Context, h issuer.Handle) error
}

func (s scripted) Revoke(ctx context.Context, _ issuer.Subject, h issuer.Handle) error {
	return s.revoke(ctx, h)
}

func begin() offline.Record {
	return offline.Record{At: time.Now(), Installation: "here", KitMadeAt: time.Now(), Reason: "leaked", By: "ana", Host: "laptop"}
}

func revoke(t *testing.T, k *offline.Kit, journal string, c offline.Choice, answer func(context.Context, issuer.Handle) error) []offline.Outcome {
	t.Helper()
	items, err := k.Choose(c)
	if err != nil {
		t.Fatal(err)
	}
	j, err := offline.OpenJournal(journal, begin())
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	out, err := (&offline.Revoker{Kit: k, Journal: j, Now: time.Now, Told: func(offline.Outcome) { told++ },
		Open: func(context.Context, offline.Issuer) (issuer.Issuer, func(), error) {
			return scripted{revoke: answer}, nil, nil
		}}).Revoke(t.Context(), items)
	if err := errors.Join(err, j.Close()); err != nil {
		t.Fatal(err)
	}
	if told != len(items) {
		t.Errorf("%d of %d were told", told, len(items))
	}
	return out
}

func count(out []offline.Outcome) map[string]int {
	n := map[string]int{}
	for _, o := range out {
		n[o.Result]++
	}
	return n
}

// Many are revoked at once, bounded; each once; the rest is said to be open, and why.
func TestManyAreRevokedOnce(t *testing.T) {
	t.Parallel()
	k, journal := read(t, 50), filepath.Join(t.TempDir(), "j")
	var asked, now, most atomic.Int64
	refuse := func(_ context.Context, h issuer.Handle) error {
		asked.Add(1)
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		if h["id"] == "human-1" {
			return issuer.ErrByHand
		}
		if h["id"] == "http-2" {
			return backends.ErrDenied
		}
		return nil
	}
	out := revoke(t, k, journal, offline.Choice{All: true}, refuse)
	if n := count(out); n[offline.Revoked] != 50 || n[offline.Open] != 50 || n[offline.Manual] != 1 || n[offline.OnReturn] != 1 || asked.Load() != 101 || most.Load() > 9 {
		t.Fatalf("%v, %d were asked, %d at once", n, asked.Load(), most.Load())
	}
	for _, o := range offline.Left(out) {
		if o.ByHand == "" {
			t.Errorf("%+v: nobody says how", o)
		}
	}
	out = revoke(t, k, journal, offline.Choice{All: true}, func(context.Context, issuer.Handle) error { asked.Add(1); return nil })
	if n := count(out); n[offline.Revoked] != 101 || n[offline.OnReturn] != 1 || asked.Load() != 152 {
		t.Errorf("%v, %d were asked", n, asked.Load())
	}
	a, err := offline.ReadJournal(journal)
	if err != nil || len(a.Versions) != 102 || a.Reason != "leaked" || a.Host != "laptop" || a.Installation != "here" || a.KitMadeAt.IsZero() {
		t.Errorf("%+v, %v", a, err)
	}
	if info, err := os.Stat(journal); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if again, err := offline.ReadJournal(journal); err != nil || again.ID != a.ID || a.ID == "" {
		t.Errorf("%q and %q, %v", a.ID, again.ID, err)
	}
}

// What a retry mends is revoked; an issuer that answers nobody is left alone.
func TestAnIssuerThatIsUnavailable(t *testing.T) {
	t.Parallel()
	k := read(t, 1)
	var asked atomic.Int64
	once := func(context.Context, issuer.Handle) error {
		if asked.Add(1) == 1 {
			return backends.ErrUnavailable
		}
		return nil
	}
	if n := count(revoke(t, k, filepath.Join(t.TempDir(), "j"), offline.Choice{Names: []string{"mail/0"}}, once)); n[offline.Revoked] != 2 || asked.Load() != 3 {
		t.Errorf("%v, %d were asked", n, asked.Load())
	}
	asked.Store(0)
	never := func(context.Context, issuer.Handle) error { asked.Add(1); return backends.ErrUnavailable }
	if n := count(revoke(t, read(t, 40), filepath.Join(t.TempDir(), "j"), offline.Choice{Issuer: "http"}, never)); n[offline.Open] != 80 || asked.Load() > 3*16 {
		t.Errorf("%v, %d were asked", n, asked.Load())
	}
}

func TestJournals(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "j")
	j, err := offline.OpenJournal(path, begin())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := offline.OpenJournal(path, begin()); !errors.Is(err, backends.ErrConflict) {
		t.Errorf("two at once: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	other := begin()
	other.Installation = "elsewhere"
	if _, err := offline.OpenJournal(path, other); !errors.Is(err, backends.ErrConflict) {
		t.Errorf("of another installation: %v", err)
	}
	if _, err := offline.ReadJournal(path + "-none"); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("where there is none: %v", err)
	}
	if err := os.WriteFile(path, []byte(canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := offline.OpenJournal(path, begin()); !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
		t.Errorf("what is none: %v", err)
	}
	if left, err := os.ReadFile(path); err != nil || string(left) != canary+"\n" {
		t.Errorf("what is none was changed: %q, %v", left, err)
	}
}

// Commands are quoted: a handle comes from outside.
func TestByHandQuotes(t *testing.T) {
	t.Parallel()
	v := offline.Version{Handle: map[string]string{"lease_id": "a'; rm -rf / #", "role": `x"; DROP ROLE y; --'`, "user": "u", "access_key_id": "AKIA"}}
	for issuerType, want := range map[string]string{
		"vault_database": `vault lease revoke 'a'\''; rm -rf / #'`,
		"postgresql":     `ALTER ROLE "x""; DROP ROLE y; --'" NOLOGIN PASSWORD NULL; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'x"; DROP ROLE y; --''';`,
		"aws_iam":        `aws iam update-access-key --user-name 'u' --access-key-id 'AKIA' --status Inactive`,
	} {
		if got := offline.ByHand("i", issuerType, v); got != want {
			t.Errorf("%s: %s", issuerType, got)
		}
	}
}
