package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

const versionColumns = `v.secret_id, v.tenant, s.name, v.number, v.stage, v.rotation_id, v.attempt, v.tag,
	v.environment, v.backend, v.issuer, v.probe, v.settings, v.slot, v.seen, v.handle, v.backend_version, v.sealed,
	v.created_at, v.published_at, v.overlap_until, v.not_after`

const versionTables = " FROM versions v JOIN secrets s ON s.id = v.secret_id "

func scanVersion(r row) (v rotation.Version, err error) {
	err = r.Scan(&v.SecretID, &v.Ref.Tenant, &v.Ref.Name, &v.Number, &v.Stage, &v.RotationID, &v.Attempt, &v.Tag,
		&v.Environment, &v.Backend, &v.Issuer, &v.Probe, fromJSON{&v.Settings}, &v.Slot, fromJSON{&v.Seen}, fromJSON{&v.Handle}, &v.BackendVersion, &v.Sealed,
		instant{&v.CreatedAt}, instant{&v.PublishedAt}, instant{&v.OverlapUntil}, instant{&v.NotAfter})
	return v, err
}

// openVersions are the numbers of the versions of secret $1 that may be alive, take a
// place at their issuer, or are in use: not retired, imported as no longer current, or
// with a retirement that goes on. Each part is the condition of an index of its own, so
// that the cost does not grow with the past.
const openVersions = `SELECT number FROM versions WHERE secret_id = $1 AND stage <> 'retired'
	UNION SELECT number FROM versions WHERE secret_id = $1 AND stage = 'retired' AND tag = '' AND sealed IS NOT NULL
	UNION SELECT version FROM retirements WHERE secret_id = $1
		AND state <> 'proven_dead' AND state <> 'unprovable' AND next_at IS NOT NULL
	UNION SELECT version FROM retirements WHERE secret_id = $1 AND soaking > 0`

// Standing is where some of what a secret has is kept.
type Standing struct {
	Environment string // that it was made in; empty: in none, or it is only kept there
	Backend     string
	Placed      bool // it is only kept there
}

// Standings returns where a secret's open versions were made, and every backend that
// holds any of it, whether or not the secret's definition names it by now.
func (tx *Tx) Standings(ctx context.Context, secretID string) ([]Standing, error) {
	found, err := all(ctx, tx, func(r row) (s Standing, err error) {
		err = r.Scan(&s.Environment, &s.Backend, &s.Placed)
		return s, err
	}, "SELECT environment, backend, FALSE FROM versions WHERE secret_id = $1 AND number IN ("+openVersions+`)
		UNION SELECT '', backend, TRUE FROM placements WHERE secret_id = $1`, secretID)
	if err != nil {
		return nil, fmt.Errorf("reading where %s stands: %w", secretID, err)
	}
	return found, nil
}

// Versions returns a secret's open versions, the oldest first: those that are
// not retired, and those whose retirement goes on.
func (tx *Tx) Versions(ctx context.Context, secretID string) ([]rotation.Version, error) {
	versions, err := all(ctx, tx, scanVersion, "SELECT "+versionColumns+versionTables+
		"WHERE v.secret_id = $1 AND v.number IN ("+openVersions+") ORDER BY v.number", secretID)
	if err != nil {
		return nil, fmt.Errorf("reading versions of %s: %w", secretID, err)
	}
	return versions, nil
}

// RecentVersions returns the newest versions of a secret, open or not, at most
// limit of them, the oldest first.
func (tx *Tx) RecentVersions(ctx context.Context, secretID string, limit int) ([]rotation.Version, error) {
	versions, err := all(ctx, tx, scanVersion, "SELECT "+versionColumns+versionTables+
		"WHERE v.secret_id = $1 ORDER BY v.number DESC"+atMost("$2"), secretID, limit)
	if err != nil {
		return nil, fmt.Errorf("reading the newest versions of %s: %w", secretID, err)
	}
	slices.Reverse(versions)
	return versions, nil
}

// VersionByHandle returns a version of any tenant that the issuer calls by this
// handle, or ErrNotFound; without an issuer, that any calls so. The index has the
// beginnings of handles: PostgreSQL's take no more.
func (tx *Tx) VersionByHandle(ctx context.Context, issuer string, handle map[string]string) (rotation.Version, error) {
	v, err := scanVersion(tx.q.queryRow(ctx, "SELECT "+versionColumns+versionTables+`
		WHERE substr(v.handle, 1, 100) = substr(CAST($2 AS TEXT), 1, 100) AND v.handle <> 'null' AND v.handle = $2 AND ($1 = '' OR v.issuer = $1) LIMIT 1`, issuer, asJSON{handle}))
	if err != nil {
		return rotation.Version{}, fmt.Errorf("looking for a handle at issuer %s: %w", issuer, err)
	}
	return v, nil
}

// VersionsByHandle returns the versions of a tenant (empty: of all) that any issuer calls
// by this handle.
func (tx *Tx) VersionsByHandle(ctx context.Context, tenant string, handle map[string]string) ([]rotation.Version, error) {
	versions, err := all(ctx, tx, scanVersion, "SELECT "+versionColumns+versionTables+`
		WHERE substr(v.handle, 1, 100) = substr(CAST($1 AS TEXT), 1, 100) AND v.handle <> 'null' AND v.handle = $1 AND ($2 = '' OR s.tenant = $2)
		ORDER BY v.secret_id, v.number`, asJSON{handle}, tenant)
	if err != nil {
		return nil, fmt.Errorf("looking for what has a handle: %w", err)
	}
	return versions, nil
}

// SkipVersions lets the versions of a secret that are to come be numbered beyond number.
func (tx *Tx) SkipVersions(ctx context.Context, secretID string, number int) error {
	if err := tx.execOnly(ctx, "UPDATE secrets SET last_version = $1 WHERE id = $2 AND last_version < $1", number, secretID); err != nil {
		return fmt.Errorf("numbering the versions of %s: %w", secretID, err)
	}
	return nil
}

// Abandoned returns pending versions, of any secret, without a retirement, whose
// rotation has ended or is bringing another one.
func (tx *Tx) Abandoned(ctx context.Context, limit int) ([]rotation.Version, error) {
	pending, err := all(ctx, tx, scanVersion, "SELECT "+versionColumns+versionTables+`WHERE v.stage = 'pending'
		AND NOT EXISTS (SELECT 1 FROM retirements t WHERE t.secret_id = v.secret_id AND t.version = v.number)
		ORDER BY v.secret_id, v.number`)
	if err != nil {
		return nil, fmt.Errorf("looking for abandoned versions: %w", err)
	}
	var left []rotation.Version
	for _, v := range pending { // as many as there are rotations under way
		r, err := tx.Rotation(ctx, v.RotationID)
		if err != nil && !errors.Is(err, backends.ErrNotFound) {
			return nil, fmt.Errorf("looking for abandoned versions: %w", err)
		}
		if (err != nil || r.State.Ended() || r.To != v.Number) && len(left) < limit {
			left = append(left, v)
		}
	}
	return left, nil
}

// Version returns one version, or ErrNotFound. In an Update it is locked: it has
// no revision, so what others make of it meanwhile would be lost when it is saved.
func (tx *Tx) Version(ctx context.Context, secretID string, number int) (rotation.Version, error) {
	query := "SELECT " + versionColumns + versionTables + "WHERE v.secret_id = $1 AND v.number = $2"
	if tx.writing {
		query += tx.t.rowLock("v")
	}
	v, err := scanVersion(tx.q.queryRow(ctx, query, secretID, number))
	if err != nil {
		return rotation.Version{}, fmt.Errorf("reading version %d of %s: %w", number, secretID, err)
	}
	return v, nil
}

// AddVersion gives v the number after the highest that its secret ever used,
// and inserts it.
func (tx *Tx) AddVersion(ctx context.Context, v *rotation.Version) error {
	var tenant string
	var number int
	err := tx.q.queryRow(ctx, "UPDATE secrets SET last_version = last_version + 1 WHERE id = $1 RETURNING last_version, tenant",
		v.SecretID).Scan(&number, &tenant)
	if err != nil {
		return fmt.Errorf("adding a version to %s: %w", v.SecretID, err)
	}
	err = tx.insert(ctx, `INSERT INTO versions (secret_id, number, tenant, stage, rotation_id, attempt, tag,
			environment, backend, issuer, probe, settings, slot, seen, handle, backend_version, sealed,
			created_at, published_at, overlap_until, not_after)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21) ON CONFLICT DO NOTHING`,
		v.SecretID, number, tenant, v.Stage, v.RotationID, v.Attempt, v.Tag,
		v.Environment, v.Backend, v.Issuer, v.Probe, asJSON{v.Settings}, v.Slot, asJSON{v.Seen}, asJSON{v.Handle}, v.BackendVersion, v.Sealed,
		micros(v.CreatedAt), nullMicros(v.PublishedAt), nullMicros(v.OverlapUntil), nullMicros(v.NotAfter))
	if err != nil {
		return fmt.Errorf("adding version %d to %s: %w", number, v.SecretID, keyGone(err, v.Sealed))
	}
	v.Number, v.Ref.Tenant = number, tenant
	return tx.saveFingerprints(ctx, v)
}

// SaveVersion writes v over what is there, except that a sealed value which was
// purged stays so: once the row has a handle, or was made by somebody else, its value
// is only ever taken away. Stage changes that make another version current save the old
// one as previous first: at any moment at most one version is current, and a second one
// is ErrConflict.
func (tx *Tx) SaveVersion(ctx context.Context, v *rotation.Version) error {
	n, err := tx.t.exec(ctx, `UPDATE versions SET stage = $1, rotation_id = $2, attempt = $3, tag = $4,
			backend = $5, issuer = $6, probe = $7, settings = $8, handle = $9, backend_version = $10,
			sealed = CASE WHEN sealed IS NULL AND (handle <> 'null' OR tag = '') THEN sealed ELSE $11 END,
			published_at = $12, overlap_until = $13, not_after = $14
		WHERE secret_id = $15 AND number = $16`,
		v.Stage, v.RotationID, v.Attempt, v.Tag,
		v.Backend, v.Issuer, v.Probe, asJSON{v.Settings}, asJSON{v.Handle}, v.BackendVersion, v.Sealed,
		nullMicros(v.PublishedAt), nullMicros(v.OverlapUntil), nullMicros(v.NotAfter), v.SecretID, v.Number)
	if err == nil && n == 0 {
		err = errMissing
	}
	if err != nil {
		return fmt.Errorf("saving version %d of %s: %w", v.Number, v.SecretID, keyGone(err, v.Sealed))
	}
	return tx.saveFingerprints(ctx, v)
}

// saveFingerprints inserts those that are missing. They are kept for ever, and
// never read back into a record: a version saved without them keeps them.
func (tx *Tx) saveFingerprints(ctx context.Context, v *rotation.Version) error {
	for field, fingerprint := range v.Fingerprints {
		err := tx.execOnly(ctx, `INSERT INTO fingerprints (tenant, fingerprint, secret_id, number, field)
			VALUES ((SELECT tenant FROM secrets WHERE id = $1), $2, $1, $3, $4) ON CONFLICT DO NOTHING`,
			v.SecretID, fingerprint, v.Number, field)
		if err != nil {
			return fmt.Errorf("saving fingerprints of version %d of %s: %w", v.Number, v.SecretID, err)
		}
	}
	return nil
}

// VersionWith returns the newest version of a secret, of any stage, whose fields
// have exactly these keyed fingerprints, or ErrNotFound. A stranger's value that was
// not adopted after all is none.
func (tx *Tx) VersionWith(ctx context.Context, s rotation.Secret, fingerprints map[string]string) (rotation.Version, error) {
	candidates, err := tx.numbersWith(ctx, s, fingerprints)
	if err != nil {
		return rotation.Version{}, err
	}
	for _, number := range candidates {
		have, err := tx.fingerprints(ctx, s.ID, number)
		if err != nil {
			return rotation.Version{}, err
		}
		if !maps.Equal(have, fingerprints) {
			continue
		}
		if v, err := tx.Version(ctx, s.ID, number); err != nil || !v.NotAdopted() {
			return v, err
		}
	}
	return rotation.Version{}, fmt.Errorf("%w: no version of %s has these fingerprints", backends.ErrNotFound, s.Ref)
}

// numbersWith returns the versions of a secret that have as many of these fingerprints
// as there are, the newest first. A field that is the same in all versions ever, such as
// a user's name, makes it read an index of them, and no candidates.
func (tx *Tx) numbersWith(ctx context.Context, s rotation.Secret, fingerprints map[string]string) ([]int, error) {
	wanted := slices.Sorted(maps.Values(fingerprints))
	if len(wanted) == 0 {
		return nil, nil
	}
	args, list := []any{s.Ref.Tenant, s.ID, len(wanted)}, ""
	for _, fingerprint := range slices.Compact(slices.Clone(wanted)) { // two fields may be equal
		args = append(args, fingerprint)
		list += fmt.Sprintf(", $%d", len(args))
	}
	numbers, err := all(ctx, tx, func(r row) (number int, err error) {
		err = r.Scan(&number)
		return number, err
	}, "SELECT number + 0 FROM fingerprints WHERE tenant = $1 AND secret_id = $2 AND fingerprint IN ("+list[2:]+`)
		GROUP BY number + 0 HAVING COUNT(*) = $3 ORDER BY 1 DESC`, args...) // + 0: by no index of all numbers
	if err != nil {
		return nil, fmt.Errorf("looking fingerprints up: %w", err)
	}
	return numbers, nil
}

// fingerprints returns those of one version.
func (tx *Tx) fingerprints(ctx context.Context, secretID string, number int) (map[string]string, error) {
	found := map[string]string{}
	_, err := all(ctx, tx, func(r row) (struct{}, error) {
		var field, fingerprint string
		err := r.Scan(&field, &fingerprint)
		found[field] = fingerprint
		return struct{}{}, err
	}, "SELECT field, fingerprint FROM fingerprints WHERE secret_id = $1 AND number = $2", secretID, number)
	if err != nil {
		return nil, fmt.Errorf("reading the fingerprints of version %d of %s: %w", number, secretID, err)
	}
	return found, nil
}
