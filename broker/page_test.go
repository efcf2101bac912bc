package broker

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

func TestAPlaceInAListIsForWhoGotIt(t *testing.T) {
	pages, err := NewPages(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	const place = `["acme","prod/acquisition"]`
	who := authn.Principal{ID: "tok_1", Tenant: "acme"}
	next := pages.next(who, "secret.list", place)
	if raw, err := base64.RawURLEncoding.DecodeString(next); err != nil || bytes.Contains(raw, []byte("acquisition")) {
		t.Errorf("it tells the place: %q (%v)", next, err)
	}
	if got, err := pages.open(who, "secret.list", client.Page{After: next, Limit: 5}); err != nil || got.After != place || got.Limit != 5 {
		t.Errorf("opened: %+v (%v)", got, err)
	}
	if pages.next(who, "secret.list", "") != "" {
		t.Error("the end of a list goes on")
	}
	tampered := []byte(next)
	tampered[len(tampered)/2] ^= 1
	other, err := NewPages(bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"of another caller":       second(pages.open(authn.Principal{ID: "tok_2", Tenant: "acme"}, "secret.list", client.Page{After: next})),
		"behind another wall":     second(pages.open(authn.Principal{ID: "tok_1", Tenant: "acme", Environment: "staging"}, "secret.list", client.Page{After: next})),
		"of another list":         second(pages.open(who, "rotation.list", client.Page{After: next})),
		"changed":                 second(pages.open(who, "secret.list", client.Page{After: string(tampered)})),
		"as the store writes it":  second(pages.open(who, "secret.list", client.Page{After: base64.RawURLEncoding.EncodeToString([]byte(place))})),
		"of another installation": second(other.open(who, "secret.list", client.Page{After: next})),
		"no base64":               second(pages.open(who, "secret.list", client.Page{After: "%"})),
	} {
		if !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
