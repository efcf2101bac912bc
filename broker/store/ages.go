package store

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// CurrentSince is since when a secret has its current version.
type CurrentSince struct {
	Ref         backends.Ref
	PublishedAt time.Time
}

// CurrentSince returns every secret that has a current version, by tenant and name.
func (tx *Tx) CurrentSince(ctx context.Context) ([]CurrentSince, error) {
	items, err := all(ctx, tx, func(r row) (c CurrentSince, err error) {
		err = r.Scan(&c.Ref.Tenant, &c.Ref.Name, instant{&c.PublishedAt})
		return c, err
	}, `SELECT s.tenant, s.name, COALESCE(v.published_at, v.created_at)
		FROM secrets s JOIN versions v ON v.secret_id = s.id AND v.stage = $1
		ORDER BY s.tenant, s.name`, rotation.StageCurrent)
	if err != nil {
		return nil, fmt.Errorf("reading the ages of current versions: %w", err)
	}
	return items, nil
}
