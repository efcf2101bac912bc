package apikey_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/apikey"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest"
)

var (
	oldPepper = apikey.Pepper{Version: 1, Key: bytes.Repeat([]byte("o"), 32)}
	newPepper = apikey.Pepper{Version: 2, Key: bytes.Repeat([]byte("n"), 32)}
	subject   = issuer.Subject{Ref: backends.Ref{Tenant: "acme", Name: "demo/api-key"}}
)

func hasher(t *testing.T, peppers ...apikey.Pepper) apikey.Hasher {
	t.Helper()
	h, err := apikey.NewHasher(peppers...)
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
		checker := apikey.NewChecker(m, h)
		return issuertest.Harness{
			Issuer:  apikey.New(m, h, clock),
			Subject: subject,
			Live:    m.live,
			Works: func(v backends.Value) bool {
				_, err := checker.Check(t.Context(), v.Reveal()["key"])
				return err == nil
			},
			LoseAnswer: func() { m.set(func() { m.lose = true }) },
			Outage: func(on bool) {
				m.set(func() {
					if m.down = nil; on {
						m.down = fmt.Errorf("%w: disk", backends.ErrUnavailable)
					}
				})
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

func TestCheck(t *testing.T) {
	m := &memory{}
	h := hasher(t, newPepper)
	i, c := apikey.New(m, h, clock), apikey.NewChecker(m, h)
	_, cred := issue(t, i, "rot-1")
	key := cred.Value.Reveal()["key"]

	if r, err := c.Check(t.Context(), key); err != nil || r.ID != cred.Handle["id"] {
		t.Fatalf("a live key: %v, %v", r.ID, err)
	}
	lookups := m.lookups
	for _, made := range []string{"", "kb_", key + "0", key[:len(key)-1] + flip(key[len(key)-1]), strings.ToUpper(key), "kb_" + strings.Repeat("a", 36)} {
		if _, err := c.Check(t.Context(), made); !errors.Is(err, backends.ErrNotFound) || strings.Contains(err.Error(), key[:12]) {
			t.Errorf("a made-up key: %v", err)
		}
	}
	if m.lookups != lookups {
		t.Error("a key with a wrong checksum was looked up")
	}
	stranger, err := i.Prepare(issuer.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Check(t.Context(), stranger.Reveal()["key"]); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("a well-formed key never issued: %v", err)
	}
	if err := i.Revoke(t.Context(), subject, cred.Handle); err != nil {
		t.Fatal(err)
	}
	r, err := c.Check(t.Context(), key)
	if !errors.Is(err, backends.ErrDenied) || r.ID != cred.Handle["id"] || strings.Contains(err.Error(), key) {
		t.Errorf("a revoked key: %v, %v", r.ID, err)
	}
	m.down = fmt.Errorf("%w: disk", backends.ErrUnavailable)
	if _, err := c.Check(t.Context(), key); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("the store is down: %v", err)
	}
}

func flip(b byte) string {
	if b == '0' {
		return "1"
	}
	return "0"
}

func TestPepperChange(t *testing.T) {
	m := &memory{}
	req, cred := issue(t, apikey.New(m, hasher(t, oldPepper), clock), "rot-1")
	key := cred.Value.Reveal()["key"]
	both := hasher(t, oldPepper, newPepper)
	if _, err := apikey.NewChecker(m, both).Check(t.Context(), key); err != nil {
		t.Errorf("a key under the older pepper: %v", err)
	}
	again, err := apikey.New(m, both, clock).Issue(t.Context(), req)
	if err != nil || again.Handle["id"] != cred.Handle["id"] || len(m.records) != 1 {
		t.Errorf("issuing again after the change: %v, %v, %d records", again.Handle, err, len(m.records))
	}
	if _, err := apikey.NewChecker(m, hasher(t, newPepper)).Check(t.Context(), key); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("without the older pepper: %v", err)
	}
}

func TestHasherMistakes(t *testing.T) {
	for name, peppers := range map[string][]apikey.Pepper{
		"none": nil, "short": {{Version: 1, Key: []byte("canary")}}, "twice": {oldPepper, oldPepper},
	} {
		if _, err := apikey.NewHasher(peppers...); !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := hasher(t, newPepper)
	i := apikey.New(&memory{}, h, clock)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		text := fmt.Sprintf(verb+verb+verb, newPepper, h, i)
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
		{issuer.KeySpec{Length: 29}, "", 0},
		{issuer.KeySpec{Length: 129}, "", 0},
		{issuer.KeySpec{Length: -1}, "", 0},
		{issuer.KeySpec{Alphabet: "hex"}, "", 0},
		{issuer.KeySpec{Prefix: "ghp"}, "", 0},
		{issuer.KeySpec{Prefix: "AKIA"}, "", 0},
		{issuer.KeySpec{Prefix: "hvs."}, "", 0},
		{issuer.KeySpec{Prefix: "a b"}, "", 0},
		{issuer.KeySpec{Prefix: "1a"}, "", 0},
		{issuer.KeySpec{Prefix: "a__b"}, "", 0},
		{issuer.KeySpec{Prefix: strings.Repeat("a", 25)}, "", 0},
	} {
		v, err := i.Prepare(issuer.Request{Key: tt.spec})
		if tt.random == 0 {
			if !errors.Is(err, backends.ErrInvalid) {
				t.Errorf("%+v: got %v, want invalid", tt.spec, err)
			}
			continue
		}
		key := v.Reveal()["key"]
		if err != nil || !strings.HasPrefix(key, tt.prefix) || len(key) != len(tt.prefix)+tt.random+6 || !apikey.Valid(key) {
			t.Errorf("%+v: %v, length %d", tt.spec, err, len(key))
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

// FuzzValid compares with a plain second reading of the format: a base62 number
// of arbitrary size, and its length.
func FuzzValid(f *testing.F) {
	f.Add("kb", strings.Repeat("0", 30), "kb_0")
	f.Add("kb", "abcdefghijABCDEFGHIJ0123456789", "")
	f.Add("a_b", strings.Repeat("z", 128), "_")
	f.Fuzz(func(t *testing.T, prefix, random, other string) {
		key := prefix + "_" + random + reference(random)
		plain := len(random) >= 30 && len(random) <= 128 && strings.Trim(random, digits) == ""
		if apikey.Valid(key) && !plain {
			t.Errorf("%q is taken", key)
		}
		if plain && prefix == "kb" && !apikey.Valid(key) {
			t.Errorf("%q is refused", key)
		}
		if !apikey.Valid(key) {
			_ = apikey.Valid(other) // no panic on anything
			return
		}
		// One changed character never goes unnoticed: CRC-32 finds every burst of up to 32 bits.
		for i := len(prefix) + 1; i < len(key); i++ {
			changed := key[:i] + flip(key[i]) + key[i+1:]
			if apikey.Valid(changed) {
				t.Errorf("%q with another character at %d is taken", key, i)
			}
		}
	})
}

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func reference(random string) string {
	n := new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(random))))
	text := ""
	for range 6 {
		m := new(big.Int)
		n.DivMod(n, big.NewInt(62), m)
		text = string(digits[m.Int64()]) + text
	}
	return text
}
