package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

// Snapshot is what a snapshot of the state says of itself.
type Snapshot struct {
	ID     string    `json:"id"`
	At     time.Time `json:"at"`   // nothing that happened before is missing in it
	Size   int64     `json:"size"` // of the database in it, in bytes
	Schema int64     `json:"schema"`
}

// Storage is how the state stands.
type Storage struct {
	Restored *Restored `json:"restored"` // nil: it was not restored, or everything is in step since
	// EvidenceHeld: an incident has it that nothing is pruned that may be evidence.
	EvidenceHeld bool `json:"evidence_held"`
}

// Restored is a snapshot that was put back, and what of it is not settled.
type Restored struct {
	Snapshot   string      `json:"snapshot"` // its id
	TakenAt    time.Time   `json:"taken_at"`
	RestoredAt time.Time   `json:"restored_at"`
	Since      time.Time   `json:"since"`    // TakenAt, or that of an earlier restore that was not settled then
	SealKey    string      `json:"seal_key"` // made to seal after the restore; empty: that of the snapshot still does
	OutOfStep  []OutOfStep `json:"out_of_step"`
}

// OutOfStep is a secret of which the restored state and the world say different things.
type OutOfStep struct {
	Secret string `json:"secret"`
	Tenant string `json:"tenant"`
	Kind   string `json:"kind"` // "replaced", "ahead", "behind", "stranger", "missing", "uncompared"
	Detail string `json:"detail"`
}

// Storage tells whether the state was restored from a snapshot, and what is out of
// step since.
func (c *Client) Storage(ctx context.Context) (Storage, error) {
	return do[Storage](ctx, c, api("GET", "storage"))
}

// Snapshot writes a snapshot of the state to w, as long as ctx lasts. What it wrote is
// good for nothing unless it returns nil: then it was whole.
func (c *Client) Snapshot(ctx context.Context, w io.Writer) (s Snapshot, err error) {
	resp, err := c.open(ctx, api("GET", "storage", "snapshot"))
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	digest := &trailed{sum: sha256.New()}
	var head prefix
	if _, err := io.Copy(io.MultiWriter(w, digest, &head), resp.Body); err != nil {
		return s, fmt.Errorf("reading the snapshot: %w", err)
	}
	lines := bytes.SplitN(head.b, []byte("\n"), 3)
	if !digest.fits() || len(lines) < 3 || json.Unmarshal(lines[1], &s) != nil {
		return s, errors.New("what the server sent is no whole snapshot")
	}
	return s, nil
}

// prefix keeps the beginning of what is written to it.
type prefix struct{ b []byte }

func (p *prefix) Write(b []byte) (int, error) {
	const enough = 8 << 10 // above what a header may be
	p.b = append(p.b, b[:min(len(b), enough-len(p.b))]...)
	return len(b), nil
}

// trailed sums up all that is written to it but the last bytes, which are the sum.
type trailed struct {
	sum  hash.Hash
	last []byte
}

func (t *trailed) Write(b []byte) (int, error) {
	t.last = append(t.last, b...)
	if over := len(t.last) - sha256.Size; over > 0 {
		t.sum.Write(t.last[:over])
		t.last = append(t.last[:0], t.last[over:]...)
	}
	return len(b), nil
}

func (t *trailed) fits() bool { return bytes.Equal(t.sum.Sum(nil), t.last) }
