package seal_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
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

func newFile(t testing.TB) *seal.File {
	t.Helper()
	key, err := seal.CreateFile(filepath.Join(t.TempDir(), "seal.key"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRing() *seal.Keyring { return seal.NewKeyring(seal.NewKEK(), nil) }

func mustSeal(t testing.TB, r *seal.Keyring) []byte {
	t.Helper()
	sealed, err := r.Seal(t.Context(), plaintext, ad)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func mustOpen(t testing.TB, r *seal.Keyring, sealed []byte, why string) {
	t.Helper()
	if got, err := r.Open(t.Context(), sealed, ad); err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("%s: opened to %d bytes, %v", why, len(got), err)
	}
}

// wantRefused wants an error of the class that gives nothing away.
func wantRefused(t *testing.T, r *seal.Keyring, sealed, ad []byte, class error, why string) {
	t.Helper()
	got, err := r.Open(t.Context(), sealed, ad)
	if got != nil || !errors.Is(err, class) {
		t.Errorf("%s: opened with error %v, want one that is %q", why, err, class)
	}
	if strings.Contains(fmt.Sprintf("%v %#v", err, err), canary) {
		t.Errorf("%s: the error gives the value away", why)
	}
}

func TestOpenUndoesSeal(t *testing.T) {
	r := newRing()
	for _, want := range [][]byte{plaintext, {}, bytes.Repeat([]byte{0}, 1<<20)} {
		for _, ad := range [][]byte{ad, nil} {
			sealed, err := r.Seal(t.Context(), want, ad)
			if err != nil {
				t.Fatal(err)
			}
			if seal.KEKOf(sealed) != r.Newest().ID() {
				t.Errorf("sealed by %q", seal.KEKOf(sealed))
			}
			got, err := r.Open(t.Context(), sealed, ad)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes came back as %d, %v", len(want), len(got), err)
			}
		}
	}
}

func TestSealedBytesShowNothingAndNeverRepeat(t *testing.T) {
	r := newRing()
	first, second := mustSeal(t, r), mustSeal(t, r)
	if bytes.Contains(first, []byte(canary)) {
		t.Error("the value is there in the clear")
	}
	if bytes.Equal(first, second) || bytes.Equal(first[len(first)-len(plaintext):], second[len(second)-len(plaintext):]) {
		t.Error("the same value was sealed to the same bytes twice")
	}
}

func TestEveryByteCounts(t *testing.T) {
	r := newRing()
	sealed := mustSeal(t, r)
	for i := range sealed {
		for _, bit := range []byte{1, 0x80} {
			changed := bytes.Clone(sealed)
			changed[i] ^= bit
			wantRefused(t, r, changed, ad, backends.ErrInvalid, fmt.Sprintf("byte %d changed", i))
		}
		wantRefused(t, r, sealed[:i], ad, backends.ErrInvalid, fmt.Sprintf("cut off at %d", i))
	}
	wantRefused(t, r, append(bytes.Clone(sealed), 0), ad, backends.ErrInvalid, "one byte more")
	wantRefused(t, r, nil, ad, backends.ErrInvalid, "nothing")
}

func TestAssociatedDataBinds(t *testing.T) {
	r := newRing()
	sealed := mustSeal(t, r)
	for _, other := range [][]byte{nil, ad[:len(ad)-1], append(bytes.Clone(ad), 'x'), []byte("elsewhere")} {
		wantRefused(t, r, sealed, other, backends.ErrInvalid, fmt.Sprintf("bound to %q", other))
	}
}

// Header and value of two sealed values do not go together, although both are whole.
func TestPartsOfTwoValuesDoNotFit(t *testing.T) {
	r := newRing()
	first, second := mustSeal(t, r), mustSeal(t, r)
	const header = 77
	wantRefused(t, r, append(bytes.Clone(first[:header]), second[header:]...), ad, backends.ErrInvalid, "the header of another")
}

func TestAnotherKeyOpensNothing(t *testing.T) {
	wantRefused(t, newRing(), mustSeal(t, newRing()), ad, backends.ErrInvalid, "another key")
}

func TestRewrapTouchesTheHeaderOnly(t *testing.T) {
	r := newRing()
	old := mustSeal(t, r)
	if same, changed, err := r.Rewrap(t.Context(), old, ad); err != nil || changed || !bytes.Equal(same, old) {
		t.Errorf("re-wrapped by the key that seals it: %t, %v", changed, err)
	}
	kept := bytes.Clone(old)
	newest := seal.NewKEK()
	r.Add(newest)
	if !r.SealBy(newest.ID()) {
		t.Fatal("the ring has not the key that was added")
	}
	fresh, changed, err := r.Rewrap(t.Context(), old, ad)
	if err != nil || !changed {
		t.Fatalf("re-wrapping: %t, %v", changed, err)
	}
	if !bytes.Equal(old, kept) {
		t.Error("what was given was written to")
	}
	if len(fresh) != len(old) || !bytes.Equal(fresh[77:], old[77:]) || bytes.Equal(fresh[:77], old[:77]) {
		t.Error("it is not the header alone that has changed")
	}
	mustOpen(t, seal.NewKeyring(newest, nil), fresh, "by the new key alone")
	mustOpen(t, r, old, "by the old key")
	if _, _, err := r.Rewrap(t.Context(), old, []byte("elsewhere")); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("re-wrapped what belongs elsewhere: %v", err)
	}
	if _, _, err := seal.NewKeyring(newest, nil).Rewrap(t.Context(), old, ad); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("re-wrapped without its key: %v", err)
	}
}

// A ring asks for a key that it does not know, as another node may have made it.
func TestRingLearns(t *testing.T) {
	other := newRing()
	sealed := mustSeal(t, other)
	away := fmt.Errorf("%w: no answer", backends.ErrUnavailable)
	asked := 0
	var r *seal.Keyring
	r = seal.NewKeyring(seal.NewKEK(), func(context.Context) error {
		if asked++; asked == 1 {
			return away
		}
		r.Add(other.Newest())
		return away // another key could not be had: not what was asked for
	})
	wantRefused(t, r, sealed, ad, backends.ErrUnavailable, "not to be had yet")
	mustOpen(t, r, sealed, "learnt")
	mustOpen(t, r, sealed, "known")
	if asked != 2 {
		t.Errorf("asked %d times, want 2", asked)
	}
}

func TestRefusedRingSealsNothing(t *testing.T) {
	r := newRing()
	id := r.Newest().ID()
	sealed := mustSeal(t, r)
	r.Refuse(fmt.Errorf("%w: for a reason", backends.ErrUnavailable))
	if _, err := r.Seal(t.Context(), plaintext, ad); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "for a reason") {
		t.Errorf("sealing: %v", err)
	}
	mustOpen(t, r, sealed, "while it seals nothing")
	if r.SealBy("nosuch") || !r.SealBy(id) {
		t.Error("sealing by a key is a question of having it")
	}
	mustOpen(t, r, mustSeal(t, r), "afterwards")
}

// testSeal is what every seal must do. Other returns one that is another key.
func testSeal(t *testing.T, s, other seal.Seal) {
	kek := seal.NewKEK()
	wrapped, err := kek.WrapBy(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	again, err := kek.WrapBy(t.Context(), s)
	if err != nil || bytes.Equal(wrapped, again) {
		t.Errorf("wrapped to the same bytes twice (%v)", err)
	}
	got, err := seal.UnwrapKEK(t.Context(), s, kek.ID(), wrapped)
	if err != nil {
		t.Fatal(err)
	}
	ring, unwrapped := seal.NewKeyring(kek, nil), seal.NewKeyring(got, nil)
	mustOpen(t, unwrapped, mustSeal(t, ring), "by the unwrapped key")

	if _, err := seal.UnwrapKEK(t.Context(), s, seal.NewKEK().ID(), wrapped); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("opened under another id: %v", err)
	}
	if _, err := seal.UnwrapKEK(t.Context(), other, kek.ID(), wrapped); err == nil {
		t.Error("another key opened it")
	}
	damaged := bytes.Clone(wrapped)
	damaged[len(damaged)-5] ^= 1
	if _, err := seal.UnwrapKEK(t.Context(), s, kek.ID(), damaged); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("opened although damaged: %v", err)
	}
	if s.ID() == other.ID() || !strings.Contains(s.ID(), ":") {
		t.Errorf("called %s, another %s", s.ID(), other.ID())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := kek.WrapBy(ctx, s); err != nil && !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("asked too late: %v, want none or one that is unavailable", err)
	}
}

func TestFile(t *testing.T) { testSeal(t, newFile(t), newFile(t)) }

// shown is a seal that shows what it is given, and opens another key once it is wrong.
type shown struct {
	seal.Seal
	keys  [][]byte
	wrong bool
}

func (s *shown) Wrap(_ context.Context, _ string, kek []byte) ([]byte, error) {
	s.keys = append(s.keys, bytes.Clone(kek))
	return bytes.Clone(kek), nil
}

func (s *shown) Unwrap(_ context.Context, _ string, wrapped []byte) ([]byte, error) {
	if s.wrong {
		return bytes.Repeat([]byte{7}, 32), nil
	}
	return bytes.Clone(wrapped), nil
}

func (s *shown) ID() string { return "shown:1" }

func TestKEKIsNeverPrinted(t *testing.T) {
	kek, s := seal.NewKEK(), &shown{}
	wrapped, err := kek.WrapBy(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	s.wrong = true
	if _, err := kek.WrapBy(t.Context(), s); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "does not open it") {
		t.Errorf("wrapped by a seal that opens another key: %v", err)
	}
	_, wrong := seal.UnwrapKEK(t.Context(), s, kek.ID(), wrapped)
	if !errors.Is(wrong, backends.ErrInvalid) {
		t.Errorf("another key was taken for it: %v", wrong)
	}
	encoded, err := json.Marshal(map[string]any{"kek": kek, "ring": seal.NewKeyring(kek, nil)})
	if err != nil {
		t.Fatal(err)
	}
	ring := seal.NewKeyring(kek, nil)
	out := fmt.Sprintf("%v %+v %#v %x %s %d %v %v %+v %s %v", kek, kek, kek, kek, kek, kek, *kek, ring, ring, encoded, wrong)
	key := s.keys[0]
	for _, form := range []string{string(key), fmt.Sprintf("%x", key), strings.Trim(fmt.Sprint(key), "[]"), base64.StdEncoding.EncodeToString(key)} {
		if strings.Contains(out, form) {
			t.Errorf("the key was printed")
		}
	}
	if !strings.Contains(out, kek.ID()) {
		t.Error("not even the id was printed")
	}
}

// What was not sealed by the key never opens, and never panics.
func FuzzOpen(f *testing.F) {
	r := newRing()
	genuine := mustSeal(f, r)
	f.Add(genuine, ad)
	f.Add([]byte{1, 0}, []byte{})
	f.Add(genuine[:105], ad)
	f.Fuzz(func(t *testing.T, sealed, bound []byte) {
		got, err := r.Open(t.Context(), sealed, bound)
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
