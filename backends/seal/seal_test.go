package seal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
)

const canary = "canary-91c2"

var (
	plaintext = []byte(`{"key":"` + canary + `"}`)
	ad        = []byte("tenant, secret, version, column")
)

func newKey(t testing.TB) *seal.File {
	t.Helper()
	key, err := seal.CreateFile(filepath.Join(t.TempDir(), "seal.key"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSealer(t testing.TB, keks ...seal.KEK) *seal.Sealer {
	t.Helper()
	s, err := seal.New(keks...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustSeal(t testing.TB, s *seal.Sealer) []byte {
	t.Helper()
	sealed, err := s.Seal(t.Context(), plaintext, ad)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// wantRefused wants an error of the class that gives nothing away.
func wantRefused(t *testing.T, s *seal.Sealer, sealed, ad []byte, class error, why string) {
	t.Helper()
	got, err := s.Open(t.Context(), sealed, ad)
	if got != nil || !errors.Is(err, class) {
		t.Errorf("%s: opened with error %v, want one that is %q", why, err, class)
	}
	if strings.Contains(fmt.Sprintf("%v %#v", err, err), canary) {
		t.Errorf("%s: the error gives the value away", why)
	}
}

func TestOpenUndoesSeal(t *testing.T) {
	s := newSealer(t, newKey(t))
	for _, want := range [][]byte{plaintext, {}, bytes.Repeat([]byte{0}, 1<<20)} {
		for _, ad := range [][]byte{ad, nil} {
			sealed, err := s.Seal(t.Context(), want, ad)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Open(t.Context(), sealed, ad)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes came back as %d, %v", len(want), len(got), err)
			}
		}
	}
}

func TestSealedBytesShowNothingAndNeverRepeat(t *testing.T) {
	s := newSealer(t, newKey(t))
	first, second := mustSeal(t, s), mustSeal(t, s)
	if bytes.Contains(first, []byte(canary)) {
		t.Error("the value is there in the clear")
	}
	if bytes.Equal(first, second) || bytes.Equal(first[len(first)-len(plaintext):], second[len(second)-len(plaintext):]) {
		t.Error("the same value was sealed to the same bytes twice")
	}
}

func TestEveryByteCounts(t *testing.T) {
	s := newSealer(t, newKey(t))
	sealed := mustSeal(t, s)
	for i := range sealed {
		for _, bit := range []byte{1, 0x80} {
			changed := bytes.Clone(sealed)
			changed[i] ^= bit
			wantRefused(t, s, changed, ad, backends.ErrInvalid, fmt.Sprintf("byte %d changed", i))
		}
		wantRefused(t, s, sealed[:i], ad, backends.ErrInvalid, fmt.Sprintf("cut off at %d", i))
	}
	wantRefused(t, s, append(bytes.Clone(sealed), 0), ad, backends.ErrInvalid, "one byte more")
	wantRefused(t, s, nil, ad, backends.ErrInvalid, "nothing")
}

func TestAssociatedDataBinds(t *testing.T) {
	s := newSealer(t, newKey(t))
	sealed := mustSeal(t, s)
	for _, other := range [][]byte{nil, ad[:len(ad)-1], append(bytes.Clone(ad), 'x'), []byte("elsewhere")} {
		wantRefused(t, s, sealed, other, backends.ErrInvalid, fmt.Sprintf("bound to %q", other))
	}
}

func TestAnotherKeyOpensNothing(t *testing.T) {
	sealed := mustSeal(t, newSealer(t, newKey(t)))
	wantRefused(t, newSealer(t, newKey(t)), sealed, ad, backends.ErrInvalid, "another key")
}

// A key-encryption key whose service is away.
type away struct{ seal.KEK }

func (away) Wrap(context.Context, []byte, []byte) ([]byte, error) {
	return nil, fmt.Errorf("%w: no answer", backends.ErrUnavailable)
}

func (away) Unwrap(context.Context, []byte, []byte) ([]byte, error) {
	return nil, fmt.Errorf("%w: no answer", backends.ErrUnavailable)
}

func TestAnyKeyOpens(t *testing.T) {
	a, b := newKey(t), newKey(t)
	both := newSealer(t, a, b)
	sealed := mustSeal(t, both)
	for name, s := range map[string]*seal.Sealer{
		"both":          both,
		"the first":     newSealer(t, a),
		"the second":    newSealer(t, b),
		"first away":    newSealer(t, away{a}, b),
		"second away":   newSealer(t, a, away{b}),
		"a new key too": newSealer(t, newKey(t), b),
	} {
		if got, err := s.Open(t.Context(), sealed, ad); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantRefused(t, newSealer(t, away{a}, away{b}), sealed, ad, backends.ErrUnavailable, "both away")
	// Where one is lost for good and one is away, asking again may help.
	if _, err := newSealer(t, away{a}).Seal(t.Context(), plaintext, ad); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("sealed without a key: %v", err)
	}
	withoutA := mustSeal(t, newSealer(t, away{a}, b))
	if got, err := newSealer(t, b).Open(t.Context(), withoutA, ad); err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("sealed while one key was away: %v", err)
	}
}

type named struct {
	seal.KEK
	id string
}

func (n named) ID() string { return n.id }

func TestNewRefusesUnusableKeys(t *testing.T) {
	k := newKey(t)
	for name, keks := range map[string][]seal.KEK{
		"none":     nil,
		"twice":    {k, k},
		"unnamed":  {named{k, ""}},
		"too long": {named{k, strings.Repeat("x", 256)}},
	} {
		if _, err := seal.New(keks...); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What was not sealed by the key never opens, and never panics.
func FuzzOpen(f *testing.F) {
	key := newKey(f)
	s := newSealer(f, key)
	genuine := mustSeal(f, s)
	f.Add(genuine, ad)
	f.Add([]byte{1, 0}, []byte{})
	f.Add([]byte{1, 255, 20}, ad)
	f.Fuzz(func(t *testing.T, sealed, bound []byte) {
		got, err := s.Open(t.Context(), sealed, bound)
		same := bytes.Equal(sealed, genuine) && bytes.Equal(bound, ad)
		if (err == nil) != same {
			t.Fatalf("opened: %v, genuine: %v", err == nil, same)
		}
		if same && !bytes.Equal(got, plaintext) {
			t.Fatal("opened to something else")
		}
		if err != nil && !errors.Is(err, backends.ErrInvalid) {
			t.Fatalf("of another class: %v", err)
		}
	})
}
