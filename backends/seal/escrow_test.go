package seal_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
)

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestEscrowCopyGivesTheKeysBack(t *testing.T) {
	first, second, stranger := newIdentity(t), newIdentity(t), newIdentity(t)
	to, err := seal.ParseRecipients([]string{first.Recipient().String(), second.Recipient().String()})
	if err != nil {
		t.Fatal(err)
	}
	keks := []*seal.KEK{seal.NewKEK(), seal.NewKEK()}
	var copied bytes.Buffer
	if err := seal.WriteEscrow(&copied, to, keks); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(copied.String(), "-----BEGIN AGE ENCRYPTED FILE-----") {
		t.Errorf("the copy begins with %.40q", copied.String())
	}
	for _, id := range []*age.X25519Identity{first, second} {
		got, err := seal.ReadEscrow(bytes.NewReader(copied.Bytes()), strings.NewReader("# a comment\n"+id.String()+"\n"))
		if err != nil || len(got) != 2 {
			t.Fatalf("%d keys, %v", len(got), err)
		}
		rings := map[string]*seal.Keyring{}
		for _, k := range got {
			rings[k.ID()] = seal.NewKeyring(k, nil)
		}
		for _, k := range keks {
			mustOpen(t, rings[k.ID()], mustSeal(t, seal.NewKeyring(k, nil)), "by the copied key")
		}
	}
	damaged := strings.Replace(copied.String(), "\n-----END", "A\n-----END", 1)
	for name, test := range map[string]struct {
		copied, identity string
		class            error
	}{
		"somebody else's identity": {copied.String(), stranger.String(), backends.ErrDenied},
		"no identity":              {copied.String(), canary, backends.ErrInvalid},
		"the public key":           {copied.String(), first.Recipient().String(), backends.ErrInvalid},
		"a damaged copy":           {damaged, first.String(), backends.ErrInvalid},
		"half a copy":              {copied.String()[:copied.Len()/2], first.String(), backends.ErrInvalid},
		"no copy":                  {canary, first.String(), backends.ErrInvalid},
	} {
		got, err := seal.ReadEscrow(strings.NewReader(test.copied), strings.NewReader(test.identity))
		if got != nil || !errors.Is(err, test.class) {
			t.Errorf("%s: %v, want one that is %q", name, err, test.class)
		}
		if err != nil && (strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "AGE-SECRET")) {
			t.Errorf("%s: the error quotes what it read: %v", name, err)
		}
	}
}

func TestEscrowIsForSomebody(t *testing.T) {
	for _, texts := range [][]string{nil, {"age1nonsense"}, {newIdentity(t).Recipient().String(), ""}} {
		if _, err := seal.ParseRecipients(texts); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%q: %v", texts, err)
		}
	}
}
