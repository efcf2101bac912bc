// Package exec is the issuer of credentials that a program of the operator's mints
// and revokes; package program says how it is spoken to.
package exec

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/keys"
	"github.com/keybroker/keybroker/rotation/program"
)

// Issuer runs the program once for each operation.
type Issuer struct {
	runner *program.Runner
	traits issuer.Traits
	public []string // fields that are no secret
}

// finding and preparing are what an Issuer can do besides, if its block says so.
type (
	finding   struct{ i *Issuer }
	preparing struct{ i *Issuer }
)

var (
	_ issuer.Issuer          = (*Issuer)(nil)
	_ issuer.Checker         = (*Issuer)(nil)
	_ issuer.SettingsChecker = (*Issuer)(nil)
	_ issuer.Finder          = finding{}
	_ issuer.Preparer        = preparing{}
	_ issuer.KeyChecker      = preparing{}
)

// Traits implements issuer.Issuer.
func (i *Issuer) Traits() issuer.Traits { return i.traits }

// CheckSettings implements issuer.SettingsChecker: what they mean only the program
// knows.
func (i *Issuer) CheckSettings(settings json.RawMessage) []string {
	var object map[string]json.RawMessage
	if trimmed := bytes.TrimSpace(settings); len(trimmed) > 0 && json.Unmarshal(trimmed, &object) != nil {
		return []string{"the settings must be an object"}
	}
	return nil
}

// Issue implements issuer.Issuer. Of an answer that is not whole the handle alone is
// returned, if that can be taken.
func (i *Issuer) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	ask := i.ask(program.Issue, req.Subject)
	ask.Tag, ask.Attempt, ask.Version, ask.Urgent, ask.Value = req.Tag, req.Attempt, req.Version, req.Urgent, req.Prepared.Reveal()
	answer, err := i.run(ctx, ask)
	if errors.Is(err, backends.ErrNotFound) || errors.Is(err, backends.ErrUnsupported) { // of what, and after which half of its work?
		err = fmt.Errorf("%w: the credential may exist: %s", backends.ErrUnavailable, err.Error())
	}
	if err != nil {
		return issuer.Credential{}, err
	}
	cred, err := i.credential(req.Prepared, answer)
	if err != nil {
		return cred, fmt.Errorf("issue by %s: %w: the credential may exist, but %w", i.runner.Command(), backends.ErrUnavailable, err)
	}
	return cred, nil
}

// credential takes an answer only if it is whole; with an error it has a handle at most.
// Its errors hold no value.
func (i *Issuer) credential(prepared backends.Value, a program.Answer) (issuer.Credential, error) {
	value := backends.NewValue(a.Value)
	if err := i.handle(a.Handle, i.secrets(value, prepared)); err != nil {
		return issuer.Credential{}, err
	}
	made := issuer.Credential{Handle: a.Handle}
	switch {
	case prepared.IsZero():
	case !value.IsZero() && !value.Equal(prepared):
		return made, errors.New("the answer has another value than the one that was to be set")
	default:
		value = prepared
	}
	if !slices.Equal(value.FieldNames(), i.traits.Fields) {
		return made, fmt.Errorf("the answer's value has not the fields %s", strings.Join(i.traits.Fields, ", "))
	}
	for field, text := range value.Reveal() {
		if text == "" {
			return made, fmt.Errorf("the field %s of the answer's value is empty", field)
		}
	}
	made.Value = value
	if a.NotAfter != nil {
		made.NotAfter = a.NotAfter.UTC()
	}
	return made, nil
}

// secrets are the texts that no handle may hold, with the names of what they are.
func (i *Issuer) secrets(values ...backends.Value) map[string]string {
	texts := map[string]string{}
	for _, value := range values {
		for field, text := range value.Reveal() {
			if !slices.Contains(i.public, field) {
				texts[text] = "the field " + field
			}
		}
	}
	for _, text := range i.runner.Secrets() {
		texts[text] = "a text of secret_env"
	}
	return texts
}

// handle refuses one that is not as the block says, or holds a secret.
func (i *Issuer) handle(h, secrets map[string]string) error {
	if !slices.Equal(slices.Sorted(maps.Keys(h)), i.traits.Handle) || slices.Contains(slices.Collect(maps.Values(h)), "") {
		return fmt.Errorf("a handle in the answer has not the parts %s, or an empty one", strings.Join(i.traits.Handle, ", "))
	}
	for part, shown := range h {
		for text, what := range secrets {
			if holds(shown, text) {
				return fmt.Errorf("handle.%s holds %s: handles are stored and shown openly", part, what)
			}
		}
	}
	return nil
}

// short is the length, in bytes, of texts that stand in others by chance.
const short = 8

// holds tells whether a text tells a secret, which may be empty.
func holds(shown, secret string) bool {
	return shown == secret || len(secret) >= short && (strings.Contains(shown, secret) ||
		strings.Contains(shown, url.QueryEscape(secret)) || strings.Contains(shown, base64.StdEncoding.EncodeToString([]byte(secret))))
}

// Revoke implements issuer.Issuer. That the program knows no such credential is an
// acknowledgement.
func (i *Issuer) Revoke(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	ask := i.ask(program.Revoke, sub)
	ask.Handle = h
	if _, err := i.run(ctx, ask); err != nil && !errors.Is(err, backends.ErrNotFound) {
		return err
	}
	return nil
}

// Check implements issuer.Checker: the program says itself what it finds.
func (i *Issuer) Check(ctx context.Context, sub issuer.Subject) []issuer.Finding {
	runs := "runs " + i.runner.Command()
	answer, err := i.run(ctx, i.ask(program.Check, sub))
	switch {
	case errors.Is(err, backends.ErrUnsupported):
		return []issuer.Finding{{What: runs, Problem: "the program does not know the operation check, so what it may do cannot be told", Unknown: true}}
	case errors.Is(err, program.ErrNotStarted):
		return []issuer.Finding{{What: runs, Problem: err.Error(), Mend: "see that the file of command is there, and that the broker's user may execute it and only its owner may change it"}}
	case err != nil:
		return []issuer.Finding{{What: runs, Problem: err.Error(), Mend: "see what the program says when it is run by hand as the broker's user"}}
	}
	found := []issuer.Finding{{What: runs}}
	for _, f := range answer.Findings {
		if f.What == "" || f.Problem == "" && (f.Mend != "" || f.Unknown) {
			f = program.Finding{What: runs, Problem: "one of its findings is about nothing, or has something to mend but no problem", Unknown: true}
		}
		found = append(found, issuer.Finding(f))
	}
	return found
}

// Find implements issuer.Finder.
func (f finding) Find(ctx context.Context, sub issuer.Subject, tag string) ([]issuer.Found, error) {
	ask := f.i.ask(program.Find, sub)
	ask.Tag = tag
	answer, err := f.i.run(ctx, ask)
	if err != nil {
		return nil, err
	}
	var found []issuer.Found
	for _, c := range answer.Found {
		if c.Tag != tag {
			continue
		}
		if err := f.i.handle(c.Handle, f.i.secrets()); err != nil {
			return nil, fmt.Errorf("find by %s: %w: %w", f.i.runner.Command(), backends.ErrUnavailable, err)
		}
		found = append(found, issuer.Found{Handle: c.Handle, Tag: c.Tag})
	}
	return found, nil
}

// Prepare implements issuer.Preparer.
func (p preparing) Prepare(req issuer.Request) (backends.Value, error) {
	text, err := keys.Generate(keys.Spec(req.Key))
	if err != nil {
		return backends.Value{}, fmt.Errorf("preparing a value: %w", err)
	}
	return backends.NewValue(map[string]string{p.i.traits.Fields[0]: text}), nil
}

// CheckKey implements issuer.KeyChecker.
func (p preparing) CheckKey(spec issuer.KeySpec) (issuer.KeySpec, error) {
	checked, err := keys.Check(keys.Spec(spec))
	return issuer.KeySpec(checked), err
}

func (i *Issuer) ask(operation string, sub issuer.Subject) program.Request {
	return program.Request{Operation: operation, Secret: program.Secret{
		Tenant: sub.Ref.Tenant, Name: sub.Ref.Name, Labels: sub.Labels, Settings: sub.Settings,
	}}
}

func (i *Issuer) run(ctx context.Context, ask program.Request) (program.Answer, error) {
	answer, err := i.runner.Run(ctx, ask)
	if errors.Is(err, program.ErrNotStarted) {
		err = notSent{err}
	}
	return answer, err
}

// notSent is program.ErrNotStarted as issuer.ErrNotSent, whose text would say it again.
type notSent struct{ error }

func (e notSent) Unwrap() []error { return []error{e.error, issuer.ErrNotSent} }
