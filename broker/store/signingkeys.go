package store

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
)

const signingKeys = "signing_keys"

// SigningKey is one that messages to a consumer are signed with, and that the broker
// owns.
type SigningKey struct {
	ID        string
	Tenant    string // of the consumer: another tenant's of the same name has other keys
	Consumer  string
	Algorithm string
	Public    string // as the consumer is given it; empty: there is none
	Sealed    []byte // what signs, bound to all of the above: see AssociatedData
	CreatedAt time.Time
	Until     time.Time // nothing is signed with it from then on; zero: it is the newest
}

// AssociatedData is what Sealed is bound to. Who can write to the database cannot have
// a public key of theirs published beside it, nor another consumer's key used.
func (k SigningKey) AssociatedData() []byte {
	return backends.AssociatedData(backends.Ref{Tenant: k.Tenant, Name: k.Consumer}, 0, signingKeys+".sealed/"+k.ID+"/"+k.Algorithm+"/"+k.Public)
}

const signingKeyColumns = "id, tenant, consumer, algorithm, public, sealed, created_at, until"

func scanSigningKey(r row) (k SigningKey, err error) {
	err = r.Scan(&k.ID, &k.Tenant, &k.Consumer, &k.Algorithm, &k.Public, &k.Sealed, instant{&k.CreatedAt}, instant{&k.Until})
	return k, err
}

// SigningKeys lists the signing keys of all consumers; of each one the newest first.
// Some may be over by now.
func (tx *Tx) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	keys, err := all(ctx, tx, scanSigningKey, "SELECT "+signingKeyColumns+" FROM signing_keys ORDER BY tenant, consumer, until IS NOT NULL, created_at DESC, id DESC")
	if err != nil {
		return nil, fmt.Errorf("reading the signing keys: %w", err)
	}
	return keys, nil
}

// AddSigningKey adds the newest key of a consumer, which may sign from the commit on;
// its Until is not looked at. ErrConflict if there is one that EndSigningKeys has not
// ended: nodes that make one at the same time agree on the first.
func (tx *Tx) AddSigningKey(ctx context.Context, k SigningKey) error {
	err := tx.insert(ctx, "INSERT INTO signing_keys (id, tenant, consumer, algorithm, public, sealed, created_at, wanted_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT DO NOTHING",
		k.ID, k.Tenant, k.Consumer, k.Algorithm, k.Public, k.Sealed, micros(k.CreatedAt))
	if err != nil {
		return fmt.Errorf("adding a signing key of %s: %w", k.Consumer, keyGone(err, k.Sealed))
	}
	return nil
}

// EndSigningKeys has no key of a consumer that there is now sign after a time. Those
// that were to end before keep to that.
func (tx *Tx) EndSigningKeys(ctx context.Context, tenant, consumer string, until time.Time) error {
	err := tx.execOnly(ctx, "UPDATE signing_keys SET until = $1 WHERE tenant = $2 AND consumer = $3 AND (until IS NULL OR until > $1)",
		micros(until), tenant, consumer)
	if err != nil {
		return fmt.Errorf("ending the signing keys of %s: %w", consumer, err)
	}
	return nil
}

// Consumer names one whose messages are signed with keys that the broker owns.
type Consumer struct{ Tenant, Name string }

// WantSigningKeys records that a node has these consumers in its configuration at a time.
func (tx *Tx) WantSigningKeys(ctx context.Context, consumers []Consumer, at time.Time) error {
	for _, c := range consumers {
		err := tx.execOnly(ctx, "UPDATE signing_keys SET wanted_at = $1 WHERE tenant = $2 AND consumer = $3 AND wanted_at < $1",
			micros(at), c.Tenant, c.Name)
		if err != nil {
			return fmt.Errorf("recording that the signing keys of %s are wanted: %w", c.Name, err)
		}
	}
	return nil
}

// PruneSigningKeys removes the keys that were over at a time, and those whose consumer
// no node has had in its configuration since another. It returns what it removed,
// without what was sealed.
func (tx *Tx) PruneSigningKeys(ctx context.Context, over, unwanted time.Time) ([]SigningKey, error) {
	const gone = " FROM signing_keys WHERE until <= $1 OR wanted_at < $2"
	keys, err := all(ctx, tx, scanSigningKey, "DELETE"+gone+" RETURNING "+signingKeyColumns, micros(over), micros(unwanted))
	if err != nil {
		return nil, fmt.Errorf("removing signing keys: %w", err)
	}
	for i := range keys {
		keys[i].Sealed = nil
	}
	return keys, nil
}
