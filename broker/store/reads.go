package store

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// Read is that somebody was given a version of a secret.
type Read struct {
	SecretID string
	Version  int
	Who      string // METHOD/SUBJECT; of whom nobody knows: the id of the token
	Role     string
	Address  netip.Addr // invalid: unknown
	Actor    string     // the token, or who, by which it was read last
	FirstAt  time.Time
	LastAt   time.Time // as far as it was noted: see NoteRead
}

// NoteRead keeps that somebody was given a version, at LastAt, beside what is kept of it.
// It is idempotent, and publishes no change: who reads changes nothing.
func (tx *Tx) NoteRead(ctx context.Context, r Read) error {
	err := tx.execOnly(ctx, `INSERT INTO reads (secret_id, version, who, role, address, actor, first_at, last_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
		ON CONFLICT (secret_id, version, who, role, address) DO UPDATE SET last_at = excluded.last_at, actor = excluded.actor WHERE excluded.last_at > reads.last_at`,
		r.SecretID, r.Version, r.Who, r.Role, addressKey(r.Address), r.Actor, micros(r.LastAt))
	if err != nil {
		return fmt.Errorf("noting that %s has read version %d of %s: %w", r.Who, r.Version, r.SecretID, err)
	}
	return nil
}

// addressKey orders addresses so that those of a network follow each other.
func addressKey(a netip.Addr) []byte {
	if !a.IsValid() {
		return []byte{}
	}
	key := a.As16()
	return key[:]
}

// addressOf reads such a column.
type addressOf struct{ into *netip.Addr }

func (a addressOf) Scan(v any) error {
	*a.into = netip.Addr{}
	key, ok := v.([]byte)
	if found, valid := netip.AddrFromSlice(key); ok && valid {
		*a.into = found.Unmap()
	} else if v != nil && (!ok || len(key) > 0) {
		return fmt.Errorf("scanning an address: %T is none", v)
	}
	return nil
}

// Reads returns who was given a version, the latest first: at most limit.
func (tx *Tx) Reads(ctx context.Context, secretID string, version, limit int) ([]Read, error) {
	reads, err := all(ctx, tx, func(r row) (found Read, err error) {
		found.SecretID, found.Version = secretID, version
		return found, r.Scan(&found.Who, &found.Role, addressOf{&found.Address}, &found.Actor, instant{&found.FirstAt}, instant{&found.LastAt})
	}, `SELECT who, role, address, actor, first_at, last_at FROM reads WHERE secret_id = $1 AND version = $2
		ORDER BY last_at DESC, who, role, address`+atMost("$3"), secretID, version, limit)
	if err != nil {
		return nil, fmt.Errorf("reading who was given version %d of %s: %w", version, secretID, err)
	}
	return reads, nil
}

// ReadFilter chooses reads: by Who, Network or both, which must then hold of the same one.
type ReadFilter struct {
	Tenant  string       // whose secrets; empty: those of all
	Who     string       // a role, who logged in (METHOD/SUBJECT), or the id of a token; empty: anybody
	Network netip.Prefix // zero: any
	Since   time.Time    // only those last noted then or later
}

// ReadBy returns which versions somebody was given, by the ids of their secrets.
func (tx *Tx) ReadBy(ctx context.Context, by ReadFilter) (map[string][]int, error) {
	versions := map[string][]int{}
	columns := []string{"r.role", "r.who"}
	if by.Who == "" {
		columns = []string{""}
	}
	var f filter
	query := ""
	for _, column := range columns {
		f.conditions = nil
		if column != "" {
			f.and(column+" = $?", by.Who)
		}
		if by.Network.IsValid() {
			first, last := span(by.Network)
			f.and("r.address BETWEEN $? AND $?", first, last)
		}
		if !by.Since.IsZero() {
			f.and("r.last_at >= $?", micros(by.Since))
		}
		f.equal("s.tenant", by.Tenant)
		query += " UNION SELECT r.secret_id, r.version FROM reads r JOIN secrets s ON s.id = r.secret_id" + f.where()
	}
	err := tx.q.query(ctx, func(r row) error {
		var id string
		var number int
		err := r.Scan(&id, &number)
		versions[id] = append(versions[id], number)
		return err
	}, query[len(" UNION "):]+" ORDER BY 1, 2", f.args...)
	if err != nil {
		return nil, fmt.Errorf("looking for what somebody has read: %w", err)
	}
	return versions, nil
}

// span are the keys of the first and the last address of a network.
func span(n netip.Prefix) (first, last []byte) {
	bits := n.Bits()
	if n.Addr().Is4() {
		bits += 96
	}
	first = addressKey(n.Masked().Addr())
	last = append(last, first...)
	for i := bits; i < 8*len(last); i++ {
		last[i/8] |= 1 << (7 - i%8)
	}
	return first, last
}

// PruneReads forgets reads from before a time of versions that are retired.
func (tx *Tx) PruneReads(ctx context.Context, before time.Time) error {
	for _, table := range []string{"reads", "consumer_reads"} {
		err := tx.execOnly(ctx, "DELETE FROM "+table+" WHERE last_at < $1 AND EXISTS (SELECT 1 FROM versions v WHERE v.secret_id = "+table+
			".secret_id AND v.number = "+table+".version AND v.stage = $2)", micros(before), rotation.StageRetired)
		if err != nil {
			return fmt.Errorf("pruning %s: %w", table, err)
		}
	}
	return nil
}
