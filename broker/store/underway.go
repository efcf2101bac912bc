package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// MadeBy names the components of the configuration that made a version and can
// turn it off and try it.
type MadeBy struct{ Backend, Issuer, Probe string }

// UnprovenRetirement is a retirement that goes on and has no proof.
type UnprovenRetirement struct {
	RetirementOf
	MadeBy  MadeBy
	InVault bool // the vault was given the version
}

// UnprovenRetirements returns all that go on and have no proof, the next due first.
func (tx *Tx) UnprovenRetirements(ctx context.Context) ([]UnprovenRetirement, error) {
	items, err := all(ctx, tx, scanUnproven, `SELECT t.record, t.revision, s.tenant, s.name, v.backend, v.issuer, v.probe, v.backend_version
		FROM retirements t JOIN secrets s ON s.id = t.secret_id
			JOIN versions v ON v.secret_id = t.secret_id AND v.number = t.version
		WHERE t.next_at IS NOT NULL AND t.state <> $1 ORDER BY t.next_at, t.id`, rotation.ProvenDead)
	if err != nil {
		return nil, fmt.Errorf("reading unproven retirements: %w", err)
	}
	return items, nil
}

func scanUnproven(rw row) (u UnprovenRetirement, err error) {
	var revision int64
	var inVault string
	err = rw.Scan(fromJSON{&u.Retirement}, &revision, &u.Ref.Tenant, &u.Ref.Name, &u.MadeBy.Backend, &u.MadeBy.Issuer, &u.MadeBy.Probe, &inVault)
	u.Revision, u.InVault = revision, inVault != ""
	return u, err
}

// Made is how many versions the same components made, and the secret of one of them.
type Made struct {
	MadeBy
	Versions int
	Example  backends.Ref
}

// UnretiredVersions counts the versions that are not retired, by what made them.
func (tx *Tx) UnretiredVersions(ctx context.Context) ([]Made, error) {
	return tx.made(ctx, "counting versions", "v.stage <> 'retired'", "")
}

// AwaitedRechecks counts the versions that are proven dead and are to be tried
// again, by what made them.
func (tx *Tx) AwaitedRechecks(ctx context.Context) ([]Made, error) {
	return tx.made(ctx, "counting re-checks", "t.next_at IS NOT NULL AND t.state = 'proven_dead'",
		" JOIN retirements t ON t.secret_id = v.secret_id AND t.version = v.number")
}

func (tx *Tx) made(ctx context.Context, what, where, join string) ([]Made, error) {
	items, err := all(ctx, tx, scanMade, "SELECT v.backend, v.issuer, v.probe, COUNT(*), MIN(s.tenant || ':' || s.name)"+versionTables+join+
		" WHERE "+where+" GROUP BY v.backend, v.issuer, v.probe ORDER BY v.backend, v.issuer, v.probe")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return items, nil
}

func scanMade(rw row) (m Made, err error) {
	var example string
	err = rw.Scan(&m.Backend, &m.Issuer, &m.Probe, &m.Versions, &example)
	m.Example.Tenant, m.Example.Name, _ = strings.Cut(example, ":") // tenants have no colon in their names
	return m, err
}
