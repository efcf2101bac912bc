package random_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest"
	"github.com/keybroker/keybroker/rotation/issuer/random"
)

var subject = issuer.Subject{Ref: backends.Ref{Tenant: "acme", Name: "app/password"}}

// Nobody holds what it issues, so what the suite can look at is what it is told.
func TestConformance(t *testing.T) {
	other := subject
	other.Ref.Tenant = "globex"
	for name, key := range map[string]issuer.KeySpec{
		"default": {}, "password": {Length: 24, Alphabet: "printable", Classes: []string{"lower", "upper", "digit", "symbol"}}, "token": {Prefix: "acme", Checksum: true},
	} {
		t.Run(name, func(t *testing.T) {
			issuertest.Run(t, func(*testing.T) issuertest.Harness {
				return issuertest.Harness{
					Issuer:  random.New(random.Config{Field: "password"}),
					Subject: subject,
					Others:  []issuer.Subject{other},
					Key:     key,
					Refused: func(req issuer.Request) issuer.Request {
						req.Key.Length = 8
						return req
					},
				}
			})
		})
	}
}

func TestTraits(t *testing.T) {
	got := random.New(random.Config{}).Traits()
	if !got.Unseen || got.SelfAttested || got.Kind != issuer.Mint || len(got.Fields) != 1 || got.Fields[0] != random.DefaultField {
		t.Errorf("got %+v", got)
	}
}

func TestKeySpec(t *testing.T) {
	i := random.New(random.Config{Field: "pin"})
	spec, err := i.CheckKey(issuer.KeySpec{Alphabet: "digits", Prefix: "p"})
	if err != nil || spec.Length != 39 {
		t.Fatalf("got %+v, %v", spec, err)
	}
	v, err := i.Prepare(issuer.Request{Key: spec})
	if text := v.Reveal()["pin"]; err != nil || len(text) != 41 || strings.Trim(text[2:], "0123456789") != "" {
		t.Errorf("%v, %d characters", err, len(text))
	}
	_, err = i.CheckKey(issuer.KeySpec{Length: 12, Alphabet: "hex", Checksum: true})
	for _, attribute := range []string{"length", "checksum"} {
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "invalid: key."+attribute+": ") {
			t.Errorf("%s is not in %v", attribute, err)
		}
	}
}

// A value under another field's name is not taken, and is in no error.
func TestIssueRefusesWhatWasNotPrepared(t *testing.T) {
	for _, v := range []backends.Value{{}, backends.NewValue(map[string]string{"password": "canary-88"})} {
		_, err := random.New(random.Config{}).Issue(t.Context(), issuer.Request{Tag: "rot-1", Prepared: v})
		if !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v", err)
		}
	}
}

func TestMistakes(t *testing.T) {
	for field, ok := range map[string]bool{"": true, "password": true, "API_KEY": true, "a-b": true, "1st": false, "a b": false, "ä": false, strings.Repeat("x", 65): false} {
		err := random.Config{Field: field}.Validate()
		if (err == nil) != ok || !ok && !strings.HasPrefix(err.Error(), "invalid: field ") {
			t.Errorf("%q: got %v", field, err)
		}
	}
}
