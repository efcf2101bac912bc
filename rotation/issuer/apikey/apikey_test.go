package apikey_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/apikey"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest"
	"github.com/keybroker/keybroker/rotation/keys"
)

var (
	oldPepper = keys.Pepper{Version: 1, Key: bytes.Repeat([]byte("o"), 32)}
	newPepper = keys.Pepper{Version: 2, Key: bytes.Repeat([]byte("n"), 32)}
	subject   = issuer.Subject{Ref: backends.Ref{Tenant: "acme", Name: "demo/api-key"}}
)

func hasher(t *testing.T, peppers ...keys.Pepper) keys.Hasher {
	t.Helper()
	h, err := keys.NewHasher(peppers...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func clock() time.Time { return time.Unix(1000, 0) }

func issue(t *testing.T, i *apikey.Issuer, tag string) (issuer.Request, issuer.Credential) {
	t.Helper()
	req := issuer.Request{Subject: subject, Tag: tag, Version: 3}
	value, err := i.Prepare(req)
	if err != nil {
		t.Fatal(err)
	}
	req.Prepared = value
	cred, err := i.Issue(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return req, cred
}

func TestConformance(t *testing.T) {
	issuertest.Run(t, func(t *testing.T) issuertest.Harness {
		m := &memory{}
		h := hasher(t, newPepper)
		checker := keys.NewChecker(m, h)
		other := subject
		other.Ref.Tenant = "globex"
		return issuertest.Harness{
			Issuer:  apikey.New(m, h, clock),
			Subject: subject,
			Others:  []issuer.Subject{other},
			Live:    m.live,
			Works: func(v backends.Value) bool {
				_, err := checker.Check(t.Context(), v.Reveal()["key"])
				return err == nil
			},
			Cut: func(n int) (issuer.Issuer, func() bool) {
				c := &cut{Keys: m, left: n}
				return apikey.New(c, h, clock), c.reached
			},
			LoseAnswer: func() { m.set(func() { m.lose = true }) },
			Outage: func(on bool) {
				m.set(func() {
					if m.down = nil; on {
						m.down = fmt.Errorf("%w: disk", backends.ErrUnavailable)
					}
				})
			},
			Refused: func(req issuer.Request) issuer.Request {
				req.Key.Alphabet = "hex"
				return req
			},
			Secrets: []string{string(newPepper.Key)},
		}
	})
}

func TestTraits(t *testing.T) {
	got := apikey.New(&memory{}, hasher(t, newPepper), clock).Traits()
	if got.Kind != issuer.Mint || !got.SelfAttested || got.RevocationBudget != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestRecordHoldsNoKey(t *testing.T) {
	m := &memory{}
	_, cred := issue(t, apikey.New(m, hasher(t, newPepper), clock), "rot-1")
	key := cred.Value.Reveal()["key"]
	r := m.records[0]
	if text := fmt.Sprintf("%+v", r); strings.Contains(text, key) || strings.Contains(text, key[3:11]) {
		t.Error("the record holds the key")
	}
	if r.Tenant != "acme" || r.Secret != "demo/api-key" || r.Version != 3 || r.PepperVersion != 2 || !r.CreatedAt.Equal(clock()) || cred.Handle["id"] != r.ID {
		t.Errorf("the record is %+v", r)
	}
}

func TestPepperChange(t *testing.T) {
	m := &memory{}
	req, cred := issue(t, apikey.New(m, hasher(t, oldPepper), clock), "rot-1")
	key := cred.Value.Reveal()["key"]
	both := hasher(t, oldPepper, newPepper)
	if _, err := keys.NewChecker(m, both).Check(t.Context(), key); err != nil {
		t.Errorf("a key under the older pepper: %v", err)
	}
	again, err := apikey.New(m, both, clock).Issue(t.Context(), req)
	if err != nil || again.Handle["id"] != cred.Handle["id"] || len(m.records) != 1 {
		t.Errorf("issuing again after the change: %v, %v, %d records", again.Handle, err, len(m.records))
	}
	if _, err := keys.NewChecker(m, hasher(t, newPepper)).Check(t.Context(), key); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("without the older pepper: %v", err)
	}
}

func TestNothingPrintsThePepper(t *testing.T) {
	i := apikey.New(&memory{}, hasher(t, newPepper), clock)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		text := fmt.Sprintf(verb, i)
		if strings.Contains(text, "nnnn") || strings.Contains(text, "6e6e6e") || strings.Contains(text, "110 110") || strings.Contains(text, "0x6e, 0x6e") {
			t.Errorf("%s shows the pepper", verb)
		}
	}
}

func TestKeySpec(t *testing.T) {
	i := apikey.New(&memory{}, hasher(t, newPepper), clock)
	for _, tt := range []struct {
		spec   issuer.KeySpec
		prefix string
		random int // 0: refused
	}{
		{issuer.KeySpec{}, "kb_", 30},
		{issuer.KeySpec{Length: 40, Prefix: "pk", Alphabet: "base62", Checksum: true}, "pk_", 40},
		{issuer.KeySpec{Prefix: "acme_live", Length: 128}, "acme_live_", 128},
		{issuer.KeySpec{Classes: []string{"digit", "upper"}}, "kb_", 30},
		{issuer.KeySpec{Classes: []string{"symbol"}}, "", 0},
		{issuer.KeySpec{Length: 29}, "", 0},
		{issuer.KeySpec{Length: 129}, "", 0},
		{issuer.KeySpec{Alphabet: "hex"}, "", 0},
		{issuer.KeySpec{Prefix: "ghp"}, "", 0},
		{issuer.KeySpec{Prefix: "a b"}, "", 0},
	} {
		v, err := i.Prepare(issuer.Request{Key: tt.spec})
		if tt.random == 0 {
			if !errors.Is(err, backends.ErrInvalid) {
				t.Errorf("%+v: got %v, want invalid", tt.spec, err)
			}
			continue
		}
		key := v.Reveal()["key"]
		if err != nil || !strings.HasPrefix(key, tt.prefix) || len(key) != len(tt.prefix)+tt.random+6 || !keys.Valid(key) {
			t.Errorf("%+v: %v, length %d", tt.spec, err, len(key))
		}
	}
}

// CheckKey fills in what Prepare makes, and tells every mistake with its attribute.
func TestCheckKey(t *testing.T) {
	i := new(apikey.Issuer) // as it is when it is only described
	got, err := i.CheckKey(issuer.KeySpec{Classes: []string{"digit"}})
	if err != nil || got.Length != 30 || got.Prefix != "kb" || got.Alphabet != "base62" || !got.Checksum || len(got.Classes) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = i.CheckKey(issuer.KeySpec{Length: 12, Prefix: "ghp", Alphabet: "hex", Classes: []string{"symbol"}})
	for _, attribute := range []string{"length", "prefix", "alphabet", "classes"} {
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "invalid: key."+attribute+": ") {
			t.Errorf("%s is not in %v", attribute, err)
		}
	}
}

func TestIssueRefusesWhatIsNoKey(t *testing.T) {
	i := apikey.New(&memory{}, hasher(t, newPepper), clock)
	for _, v := range []backends.Value{{}, backends.NewValue(map[string]string{"key": "canary-12ab"})} {
		_, err := i.Issue(t.Context(), issuer.Request{Tag: "rot-1", Prepared: v})
		if !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v", err)
		}
	}
}
