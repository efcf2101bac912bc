package store

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

const secretColumns = `s.id, s.tenant, s.name, s.origin, s.state, s.definition, s.current, s.last_version, s.generation,
	s.next_due_at, s.notice_at, s.noticed_due, s.created_at, s.updated_at, s.revision`

func scanSecret(r row) (s rotation.Secret, err error) {
	err = r.Scan(&s.ID, &s.Ref.Tenant, &s.Ref.Name, &s.Origin, &s.State, fromJSON{&s.Definition}, &s.Current, &s.LastVersion, &s.Generation,
		instant{&s.NextDueAt}, instant{&s.NoticeAt}, instant{&s.NoticedDue}, instant{&s.CreatedAt}, instant{&s.UpdatedAt}, &s.Revision)
	return s, err
}

// Secret returns a secret by its id.
func (tx *Tx) Secret(ctx context.Context, id string) (rotation.Secret, error) {
	s, err := scanSecret(tx.q.queryRow(ctx, "SELECT "+secretColumns+" FROM secrets s WHERE s.id = $1"+tx.lock("s"), id))
	if err != nil {
		return rotation.Secret{}, fmt.Errorf("reading secret %s: %w", id, err)
	}
	return s, nil
}

// SecretByRef returns a secret by its tenant and name.
func (tx *Tx) SecretByRef(ctx context.Context, ref backends.Ref) (rotation.Secret, error) {
	s, err := scanSecret(tx.q.queryRow(ctx,
		"SELECT "+secretColumns+" FROM secrets s WHERE s.tenant = $1 AND s.name = $2"+tx.lock("s"), ref.Tenant, ref.Name))
	if err != nil {
		return rotation.Secret{}, fmt.Errorf("reading secret %s: %w", ref, err)
	}
	return s, nil
}

// SecretFilter chooses secrets; what is empty matches all.
type SecretFilter struct {
	Tenant string
	Name   string
	Prefix string // of the name
	Origin rotation.Origin
}

// Secrets lists secrets by tenant and name, in byte order.
func (tx *Tx) Secrets(ctx context.Context, by SecretFilter, p Page) ([]rotation.Secret, string, error) {
	var f filter
	f.equal("s.tenant", by.Tenant)
	f.equal("s.name", by.Name)
	f.equal("s.origin", string(by.Origin))
	if by.Prefix != "" {
		f.and("substr(s.name, 1, length($?)) = $?", by.Prefix, by.Prefix)
	}
	var tenant, name string
	more, err := p.decode(&tenant, &name)
	if err != nil {
		return nil, "", fmt.Errorf("listing secrets: %w", err)
	}
	byTenant, byName := "s.tenant"+tx.q.byteOrder(), "s.name"+tx.q.byteOrder()
	if more {
		f.and("("+byTenant+", "+byName+") > ($?, $?)", tenant, name)
	}
	items, err := all(ctx, tx, scanSecret,
		"SELECT "+secretColumns+" FROM secrets s"+f.where()+
			" ORDER BY "+byTenant+", "+byName+""+atMost(f.arg(p.limit()+1)), f.args...)
	if err != nil {
		return nil, "", fmt.Errorf("listing secrets: %w", err)
	}
	items, next := cut(items, p, func(s rotation.Secret) string { return cursor(s.Ref.Tenant, s.Ref.Name) })
	return items, next, nil
}

// AddSecret inserts s at revision 1; ErrConflict if there is one of that id or
// of that tenant and name.
func (tx *Tx) AddSecret(ctx context.Context, s *rotation.Secret) error {
	d := s.Definition
	err := tx.insert(ctx, `INSERT INTO secrets (id, tenant, name, origin, state, backend, issuer, probe, policy, pair, definition,
			current, generation, next_due_at, notice_at, noticed_due, created_at, updated_at, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, 1) ON CONFLICT DO NOTHING`,
		s.ID, s.Ref.Tenant, s.Ref.Name, s.Origin, s.State, d.Backend, d.Issuer, d.Probe, d.Policy, d.Pair, asJSON{d},
		s.Current, s.Generation, nullMicros(s.NextDueAt), nullMicros(s.NoticeAt), nullMicros(s.NoticedDue), micros(s.CreatedAt), micros(s.UpdatedAt))
	if err != nil {
		return fmt.Errorf("adding secret %s: %w", s.Ref, err)
	}
	s.Revision = 1
	tx.publish(ChangeSecret, s.ID, s.ID)
	return nil
}

// SaveSecret compares and swaps; tenant, name and time of creation never change,
// and LastVersion is AddVersion's.
func (tx *Tx) SaveSecret(ctx context.Context, s *rotation.Secret) error {
	d := s.Definition
	err := tx.swap(ctx, &s.Revision, `UPDATE secrets SET origin = $1, state = $2, backend = $3, issuer = $4, probe = $5, policy = $6, pair = $7,
			definition = $8, current = $9, generation = $10, next_due_at = $11, notice_at = $12, noticed_due = $13, updated_at = $14, revision = revision + 1
		WHERE id = $15 AND revision = $16`,
		s.Origin, s.State, d.Backend, d.Issuer, d.Probe, d.Policy, d.Pair,
		asJSON{d}, s.Current, s.Generation, nullMicros(s.NextDueAt), nullMicros(s.NoticeAt), nullMicros(s.NoticedDue), micros(s.UpdatedAt), s.ID, s.Revision)
	if err != nil {
		return fmt.Errorf("saving secret %s: %w", s.Ref, err)
	}
	tx.publish(ChangeSecret, s.ID, s.ID)
	return nil
}
