package store

import (
	"context"
	"fmt"
	"slices"
)

// FieldOf is a field of a version that has a value that was looked for.
type FieldOf struct {
	SecretID    string
	Version     int
	Fingerprint string // of the value
	Field       string // keyed, as Version.Fingerprints has it
	Fields      int    // that the version has
}

const (
	// lookedUpBy is how many fingerprints one query looks up.
	lookedUpBy = 256
	// maxFieldsOf is how many fields with one value are looked at: what more of a tenant
	// have is of no one in particular.
	maxFieldsOf = 5000
)

// VersionsWithField returns what of a tenant has, or ever had, a field with one of those
// keyed fingerprints, by secret and version: with each value at most some thousands.
func (tx *Tx) VersionsWithField(ctx context.Context, tenant string, fingerprints ...string) ([]FieldOf, error) {
	var found []FieldOf
	for some := range slices.Chunk(fingerprints, lookedUpBy) {
		items, err := tx.fieldsWith(ctx, tenant, some)
		if err != nil {
			return nil, fmt.Errorf("looking values up: %w", err)
		}
		found = append(found, items...)
	}
	return found, nil
}

// fieldsWith looks up all at once; only where one of them is everywhere, one by one, so
// that it does not keep the others from being found.
func (tx *Tx) fieldsWith(ctx context.Context, tenant string, fingerprints []string) ([]FieldOf, error) {
	var f filter
	f.and("f.tenant = $?", tenant)
	in(&f, "f.fingerprint", rounded(fingerprints))
	found, err := all(ctx, tx, func(r row) (o FieldOf, err error) {
		return o, r.Scan(&o.SecretID, &o.Version, &o.Fingerprint, &o.Field, &o.Fields)
	}, `WITH hit AS MATERIALIZED (SELECT f.secret_id, f.number, f.fingerprint, f.field FROM fingerprints f`+f.where()+atMost(f.arg(maxFieldsOf))+`),
			whole AS MATERIALIZED (SELECT a.secret_id, a.number, COUNT(*) AS fields FROM (SELECT DISTINCT secret_id, number FROM hit) whose
				CROSS JOIN fingerprints a WHERE a.secret_id = whose.secret_id AND a.number = whose.number GROUP BY a.secret_id, a.number)
		SELECT h.secret_id, h.number, h.fingerprint, h.field, w.fields FROM hit h JOIN whole w ON w.secret_id = h.secret_id AND w.number = h.number`, f.args...)
	if err != nil || len(found) < maxFieldsOf || len(fingerprints) == 1 {
		return found, err
	}
	found = nil
	for _, one := range fingerprints {
		items, err := tx.fieldsWith(ctx, tenant, []string{one})
		if err != nil {
			return nil, err
		}
		found = append(found, items...)
	}
	return found, nil
}

// TenantsWithFields returns the tenants that have, or ever had, versions.
func (tx *Tx) TenantsWithFields(ctx context.Context) ([]string, error) {
	tenants, err := all(ctx, tx, scanString, `WITH RECURSIVE ranked (name) AS (SELECT MIN(tenant) FROM fingerprints
		UNION ALL SELECT (SELECT MIN(tenant) FROM fingerprints WHERE tenant > ranked.name) FROM ranked WHERE ranked.name IS NOT NULL)
		SELECT name FROM ranked WHERE name IS NOT NULL`)
	if err != nil {
		return nil, fmt.Errorf("reading who has versions: %w", err)
	}
	return tenants, nil
}

// rounded repeats the last of a list, so that there are few lengths and not a statement
// for each.
func rounded(list []string) []string {
	n := 1
	for n < len(list) {
		n *= 4
	}
	return slices.Concat(list, slices.Repeat(list[len(list)-1:], n-len(list)))
}
