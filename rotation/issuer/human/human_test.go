package human_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/human"
)

const canary = "canary-0123456789"

func TestValidate(t *testing.T) {
	good := human.Config{Instructions: "ask the provider", Fields: []string{"key"}}
	for _, tt := range []struct {
		name   string
		change func(*human.Config)
		want   string // empty: it is in order
	}{
		{"the least", func(*human.Config) {}, ""},
		{"everything", func(c *human.Config) {
			c.RevokeInstructions, c.Handle, c.Deadline, c.RevocationBudget, c.MaxLive = "ask again", []string{"id"}, new(time.Hour), new(time.Hour), 2
		}, ""},
		{"no instructions", func(c *human.Config) { c.Instructions = " " }, "instructions is empty"},
		{"long instructions", func(c *human.Config) { c.RevokeInstructions = strings.Repeat("x", 5000) }, "revoke_instructions has more than"},
		{"no fields", func(c *human.Config) { c.Fields = nil }, "fields is empty"},
		{"a field that is no name", func(c *human.Config) { c.Fields = []string{"a b"} }, `fields has "a b"`},
		{"a field twice", func(c *human.Config) { c.Fields = []string{"a", "a"} }, `fields has "a" twice`},
		{"a handle that is no name", func(c *human.Config) { c.Handle = []string{""} }, `handle has ""`},
		{"a negative deadline", func(c *human.Config) { c.Deadline = new(-time.Hour) }, "deadline"},
		{"no time to make one", func(c *human.Config) { c.Deadline = new(time.Duration(0)) }, "deadline is 0s, which leaves nobody any time"},
		{"no time to turn one off", func(c *human.Config) { c.RevocationBudget = new(time.Duration(0)) }, "revocation_budget is 0s"},
		{"one live", func(c *human.Config) { c.MaxLive = 1 }, "max_live is 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			err := cfg.Validate()
			if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !errors.Is(err, backends.ErrInvalid)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestAccept(t *testing.T) {
	is := human.New(human.Config{Instructions: "x", Fields: []string{"user", "key"}, Handle: []string{"id"}})
	good, id := map[string]string{"user": "ann", "key": canary}, issuer.Handle{"id": "17"}
	if err := is.Accept(issuer.Subject{}, backends.NewValue(good), id); err != nil {
		t.Fatal(err)
	}
	if err := is.Accept(issuer.Subject{}, backends.NewValue(good), issuer.Handle{"id": "ann-17"}); err != nil {
		t.Errorf("a short field stands in the handle by chance: %v", err)
	}
	for _, tt := range []struct {
		name   string
		value  map[string]string
		handle issuer.Handle
	}{
		{"a field too few", map[string]string{"key": canary}, id},
		{"a field too many", map[string]string{"user": "ann", "key": canary, "more": "x"}, id},
		{"an empty field", map[string]string{"user": "ann", "key": ""}, id},
		{"a line break", map[string]string{"user": "ann", "key": canary + "\n"}, id},
		{"no handle", good, nil},
		{"another handle", good, issuer.Handle{"name": "17"}},
		{"an empty handle", good, issuer.Handle{"id": ""}},
		{"the secret as its handle", good, issuer.Handle{"id": canary}},
		{"the secret in its handle", good, issuer.Handle{"id": "id " + canary}},
		{"no value at all", nil, id},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := is.Accept(issuer.Subject{}, backends.NewValue(tt.value), tt.handle)
			if !errors.Is(err, backends.ErrInvalid) {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), canary) {
				t.Error("the value is in the error")
			}
		})
	}
}

func TestWhatAPersonIsAskedFor(t *testing.T) {
	is := human.New(human.Config{Instructions: "make a key at the provider", Fields: []string{"key"}})
	task := is.Task(issuer.Subject{}, "kb-1")
	if task.Deadline != human.DefaultDeadline || !strings.Contains(task.Mint, "make a key at the provider") || !strings.Contains(task.Mint, "kb-1") || task.Revoke == "" {
		t.Errorf("%+v", task)
	}
	err := is.Revoke(t.Context(), issuer.Subject{}, issuer.Handle{"tag": "kb-1"})
	if !errors.Is(err, issuer.ErrByHand) || !strings.Contains(err.Error(), "tag kb-1") {
		t.Errorf("revoking: %v", err)
	}
	if _, err := is.Issue(t.Context(), issuer.Request{}); !errors.Is(err, backends.ErrUnsupported) {
		t.Errorf("issuing: %v", err)
	}
	if traits := is.Traits(); traits.RevocationBudget != human.DefaultBudget || len(traits.Handle) != 1 || traits.Handle[0] != "tag" {
		t.Errorf("%+v", traits)
	}
}
