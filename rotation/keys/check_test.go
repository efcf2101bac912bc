package keys_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/keys"
)

var (
	oldPepper = keys.Pepper{Version: 1, Key: bytes.Repeat([]byte("o"), 32)}
	newPepper = keys.Pepper{Version: 2, Key: bytes.Repeat([]byte("n"), 32)}
)

func hasher(t *testing.T, peppers ...keys.Pepper) keys.Hasher {
	t.Helper()
	h, err := keys.NewHasher(peppers...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// issued are the records of issued keys.
type issued struct {
	records []keys.Record
	down    error // returned by every call
	lookups int
}

// add issues a key.
func (i *issued) add(h keys.Hasher, id string) (key string) {
	key = keys.NewAPIKey("kb", keys.MinLength)
	hash, pepper := h.Hash(key)
	i.records = append(i.records, keys.Record{ID: id, Hash: hash, PepperVersion: pepper})
	return key
}

func (i *issued) FindByHash(_ context.Context, hash []byte) (keys.Record, error) {
	i.lookups++
	if i.down != nil {
		return keys.Record{}, i.down
	}
	at := slices.IndexFunc(i.records, func(r keys.Record) bool { return bytes.Equal(r.Hash, hash) })
	if at < 0 {
		return keys.Record{}, backends.ErrNotFound
	}
	return i.records[at], nil
}

func TestCheck(t *testing.T) {
	records, h := &issued{}, hasher(t, newPepper)
	c := keys.NewChecker(records, h)
	key := records.add(h, "key_1")
	records.add(h, "key_2")

	if r, err := c.Check(t.Context(), key); err != nil || r.ID != "key_1" {
		t.Fatalf("a live key: %v, %v", r.ID, err)
	}
	lookups := records.lookups
	for _, made := range []string{"", "kb_", key + "0", key[:len(key)-1] + flip(key[len(key)-1]), strings.ToUpper(key), "kb_" + strings.Repeat("a", 36)} {
		if _, err := c.Check(t.Context(), made); !errors.Is(err, backends.ErrNotFound) || strings.Contains(err.Error(), key[:12]) {
			t.Errorf("a made-up key: %v", err)
		}
	}
	if records.lookups != lookups {
		t.Error("a key with a wrong checksum was looked up")
	}
	if _, err := c.Check(t.Context(), keys.NewAPIKey("kb", keys.MinLength)); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("a well-formed key never issued: %v", err)
	}
	records.records[0].RevokedAt = time.Unix(2000, 0)
	r, err := c.Check(t.Context(), key)
	if !errors.Is(err, backends.ErrDenied) || r.ID != "key_1" || strings.Contains(err.Error(), key) {
		t.Errorf("a revoked key: %v, %v", r.ID, err)
	}
	records.down = fmt.Errorf("%w: disk", backends.ErrUnavailable)
	if _, err := c.Check(t.Context(), key); !errors.Is(err, backends.ErrUnavailable) || strings.Contains(err.Error(), key) {
		t.Errorf("the store is down: %v", err)
	}
}

func TestPepperChange(t *testing.T) {
	records := &issued{}
	key := records.add(hasher(t, oldPepper), "key_1")
	both := hasher(t, oldPepper, newPepper)
	if _, err := keys.NewChecker(records, both).Check(t.Context(), key); err != nil {
		t.Errorf("a key under the older pepper: %v", err)
	}
	if _, version := both.Hash(key); version != 2 {
		t.Errorf("a new key is hashed under pepper %d", version)
	}
	if !both.Matches(records.records[0], key) || both.Matches(records.records[0], key+"0") {
		t.Error("the key does not match its own record, or another does")
	}
	if _, err := keys.NewChecker(records, hasher(t, newPepper)).Check(t.Context(), key); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("without the older pepper: %v", err)
	}
}

func TestHasherMistakes(t *testing.T) {
	for name, peppers := range map[string][]keys.Pepper{
		"none": nil, "short": {{Version: 1, Key: []byte("canary")}}, "twice": {oldPepper, oldPepper},
	} {
		if _, err := keys.NewHasher(peppers...); !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := hasher(t, newPepper)
	c := keys.NewChecker(&issued{}, h)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		text := fmt.Sprintf(verb+verb+verb, newPepper, h, c)
		if strings.Contains(text, "nnnn") || strings.Contains(text, "6e6e6e") || strings.Contains(text, "110 110") || strings.Contains(text, "0x6e, 0x6e") {
			t.Errorf("%s shows the pepper", verb)
		}
	}
}
