package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

// How an event may mean a secret.
const (
	byName   = "name"
	byLabel  = "label"
	byValue  = "value"
	byHandle = "handle"
)

const (
	// mostMatches is how many secrets one event is about, at most: those beyond are in
	// its record by name alone.
	mostMatches = 1000
	// mostForms is how many texts are looked up of the values of one event.
	mostForms = 20_000
	// shortestHandle is how long a part of a handle is, in bytes, that is looked up by itself.
	shortestHandle = 16
)

// found is what an event is about.
type found struct {
	matches []store.EventMatch
	known   bool // something in it is, or was, of a secret that the trigger's tenant has
}

// matching looks for what an event is about, within what its trigger may act on.
type matching struct {
	b  *Broker
	tx *store.Tx
	t  Trigger
	at map[string]int // by secret, in matches
	found
}

// match finds the secrets that an event is about: the versions that have the values or
// handles, and every secret that is named. What leaked is known precisely: of a secret
// that is named as well the other versions are left alone.
func (b *Broker) match(ctx context.Context, t Trigger, in inbound.Event) (out found, err error) {
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		m := &matching{b: b, tx: tx, t: t, at: map[string]int{}}
		for _, look := range []func(context.Context, inbound.Event) error{m.values, m.handles, m.names, m.labels} {
			if err := look(ctx, in); err != nil {
				return err
			}
		}
		out = m.found
		return nil
	})
	if err != nil {
		return found{}, fmt.Errorf("looking for what an event is about: %w", err)
	}
	return out, nil
}

// add takes a secret in, and one of its versions, unless that is 0.
func (m *matching) add(s rotation.Secret, version int, by string) {
	if !m.t.reaches(s) {
		return
	}
	i, there := m.at[s.ID]
	if !there {
		if len(m.matches) == mostMatches {
			return
		}
		i = len(m.matches)
		m.at[s.ID] = i
		m.matches = append(m.matches, store.EventMatch{SecretID: s.ID, Ref: s.Ref, By: by})
	}
	if at := &m.matches[i]; version > 0 && !slices.Contains(at.Versions, version) {
		at.Versions = append(at.Versions, version)
		slices.Sort(at.Versions)
	}
}

func (m *matching) version(ctx context.Context, secretID string, number int, by string) error {
	m.known = true
	s, err := m.tx.Secret(ctx, secretID)
	if err == nil {
		m.add(s, number, by)
	}
	return err
}

func (m *matching) values(ctx context.Context, in inbound.Event) error {
	var forms []string
	for _, v := range in.Values {
		forms = append(forms, candidates(v.Reveal())...)
	}
	return m.texts(ctx, forms, byValue)
}

// texts looks up which versions have texts in their fields. The name of a user or a host
// gives nothing away.
func (m *matching) texts(ctx context.Context, forms []string, by string) error {
	seen := map[string]bool{}
	forms = slices.DeleteFunc(forms, func(text string) bool { // the likelier ones stay first
		again := seen[text]
		seen[text] = true
		return again
	})
	hits, err := m.b.lookUp(ctx, m.tx, m.t.Tenant, forms[:min(len(forms), mostForms)])
	for _, h := range hits {
		if err != nil {
			break
		}
		if !h.nameOnly {
			err = m.version(ctx, h.secretID, h.version, by)
		}
	}
	return err
}

// handles looks up what issuers know credentials by: as a whole, and since an issuer may
// need more of it than others tell, by those parts that a version has in a field, such
// as the id of an access key.
func (m *matching) handles(ctx context.Context, in inbound.Event) error {
	var parts []string
	for _, h := range in.Handles {
		all, err := m.tx.VersionsByHandle(ctx, m.t.Tenant, h)
		if err != nil {
			return err
		}
		for _, v := range all {
			if err := m.version(ctx, v.SecretID, v.Number, byHandle); err != nil {
				return err
			}
		}
		for _, text := range h {
			if len(all) == 0 && len(text) >= shortestHandle {
				parts = append(parts, text)
			}
		}
	}
	return m.texts(ctx, parts, byHandle)
}

// names looks up the secrets that are named: without a tenant, of each that has one of
// that name and that the trigger acts for.
func (m *matching) names(ctx context.Context, in inbound.Event) error {
	for _, name := range in.Secrets {
		tenant, bare, qualified := strings.Cut(name, ":")
		if !qualified {
			tenant, bare = m.t.Tenant, name
		}
		if backends.ParseName(bare) != nil || m.t.Tenant != "" && tenant != m.t.Tenant {
			continue
		}
		var all []rotation.Secret
		var err error
		if tenant != "" {
			var s rotation.Secret
			if s, err = m.tx.SecretByRef(ctx, backends.Ref{Tenant: tenant, Name: bare}); errors.Is(err, backends.ErrNotFound) {
				continue
			}
			all = append(all, s)
		} else {
			all, _, err = m.tx.Secrets(ctx, store.SecretFilter{Name: bare}, store.Page{Limit: maxNamesakes})
		}
		if err != nil {
			return err
		}
		for _, s := range all {
			m.add(s, in.Version, byName)
		}
	}
	return nil
}

// labels looks up the secrets that have all the labels of the event.
func (m *matching) labels(ctx context.Context, in inbound.Event) error {
	if len(in.Labels) == 0 {
		return nil
	}
	for at := (store.Page{Limit: 1000}); ; {
		all, next, err := m.tx.Secrets(ctx, store.SecretFilter{Tenant: m.t.Tenant}, at)
		if err != nil {
			return err
		}
		for _, s := range all {
			if hasLabels(s, in.Labels) {
				m.add(s, 0, byLabel)
			}
		}
		if at.After = next; next == "" {
			return nil
		}
	}
}

func hasLabels(s rotation.Secret, wanted map[string]string) bool {
	for key, value := range wanted {
		if have, there := s.Definition.Labels[key]; !there || have != value {
			return false
		}
	}
	return true
}
