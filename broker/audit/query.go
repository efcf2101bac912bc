package audit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Query selects records. What is empty selects nothing out.
type Query struct {
	Tenant  string // only of it
	Actor   string // or identity
	Action  string // "secret.read", or "secret." for all that begin so
	Secret  string // NAME or TENANT:NAME
	Path    string
	Outcome string
	Request string
	Hash    string    // "hmac-sha256:<hex>"; see Log.Hash
	Since   time.Time // and later
	Until   time.Time // and earlier
	Before  int64     // records of lower indices only; 0: all
	Limit   int       // 0 = 100
}

const (
	defaultLimit = 100
	maxScan      = 256 << 20 // bytes that one query looks at
	maxSearches  = 2         // at once
	timeEvery    = 512       // records of which one is looked at for its time, whatever it says
	// disorder is how much earlier than its place in the log a record may have happened:
	// the outbox is moved within a second, but not while the journal cannot be written.
	disorder = 24 * time.Hour
)

// Found is what a query has found.
type Found struct {
	Lines []Line // the newest first
	// Next is where to go on (Query.Before); 0: that was all. There may be more also
	// where nothing was found: a query looks at a bounded part of the log.
	Next int64
}

// Query looks through the journal, from its end backwards.
// No more than a few run at once: the others wait.
func (l *Log) Query(ctx context.Context, q Query) (Found, error) {
	select {
	case l.searching <- struct{}{}:
		defer func() { <-l.searching }()
	case <-ctx.Done():
		return Found{}, fmt.Errorf("%w: waiting for other queries of the audit log: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	return Search(ctx, l.cfg.Path, q)
}

// Search looks through the journal at path. ErrUnavailable if it cannot be read.
func Search(ctx context.Context, path string, q Query) (Found, error) {
	if q.Limit <= 0 {
		q.Limit = defaultLimit
	}
	all, err := segments(path)
	if err != nil {
		return Found{}, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	s := search{query: q, ctx: ctx, needles: q.needles(), left: maxScan}
	for _, seg := range slices.Backward(all) {
		if seg.first < 0 || q.Before > 0 && seg.first >= q.Before {
			continue
		}
		if err := read(seg.path, s.segment); err != nil {
			return Found{}, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
		}
		if s.done {
			break
		}
	}
	if ctx.Err() != nil {
		return Found{}, fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	return s.found, nil
}

type search struct {
	query   Query
	ctx     context.Context //nolint:containedctx // it lives for one call
	needles [][]byte
	left    int64 // bytes that may still be looked at
	seen    int
	done    bool
	found   Found
}

func (s *search) segment(f *os.File, size int64) error {
	if s.query.Before > 0 {
		end, err := seek(f, size, s.query.Before)
		if err != nil {
			return err
		}
		size = end
	}
	return backward(f, size, func(raw []byte, _ int64) bool {
		s.line(raw)
		return !s.done
	})
}

// line looks at one record.
func (s *search) line(raw []byte) {
	index, ok := indexOf(raw)
	s.left -= int64(len(raw))
	if s.done = s.left < 0 || s.ctx.Err() != nil; ok && s.done {
		s.found.Next = index
	}
	s.seen++
	if !ok || s.seen%timeEvery != 0 && !containsAll(raw, s.needles) {
		return
	}
	ln, err := ParseLine(raw)
	if err != nil || ln.Kind == KindCheckpoint {
		return
	}
	if !s.query.Since.IsZero() && ln.Kind == rotation.AuditRequest && ln.At.Before(s.query.Since.Add(-disorder)) {
		s.done, s.found.Next = true, 0 // everything before is older
		return
	}
	if !s.query.selects(ln) {
		return
	}
	if s.found.Lines = append(s.found.Lines, ln); len(s.found.Lines) == s.query.Limit {
		s.done = true
		s.found.Next = index
	}
}

// needles are texts that every record has that q selects, as they stand in its line:
// most lines need no decoding.
func (q Query) needles() (out [][]byte) {
	_, secret, qualified := strings.Cut(q.Secret, ":")
	if !qualified {
		secret = q.Secret
	}
	for _, text := range []string{q.Tenant, q.Actor, q.Action, secret, q.Path, q.Outcome, q.Request, q.Hash} {
		if text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\<>&`, r) }) {
			out = append(out, []byte(text))
		}
	}
	return out
}

func containsAll(raw []byte, needles [][]byte) bool {
	for _, n := range needles {
		if !bytes.Contains(raw, n) {
			return false
		}
	}
	return true
}

func (q Query) selects(ln Line) bool {
	for _, f := range []struct{ want, is string }{{q.Tenant, ln.Tenant}, {q.Path, ln.Path}, {q.Outcome, ln.Outcome}, {q.Request, ln.Request}} {
		if f.want != "" && f.want != f.is {
			return false
		}
	}
	switch {
	case q.Actor != "" && q.Actor != ln.Actor && q.Actor != ln.Identity,
		q.Action != "" && q.Action != ln.Action && !(strings.HasSuffix(q.Action, ".") && strings.HasPrefix(ln.Action, q.Action)),
		!q.Since.IsZero() && ln.At.Before(q.Since),
		!q.Until.IsZero() && ln.At.After(q.Until),
		q.Secret != "" && !about(ln, q.Secret):
		return false
	}
	if q.Hash == "" {
		return true
	}
	for _, h := range ln.Hashes {
		if h == q.Hash {
			return true
		}
	}
	return false
}

// about tells whether a record is about a secret, TENANT:NAME, or NAME in whichever
// tenant. What the engine did says so by its tenant and path.
func about(ln Line, secret string) bool {
	tenant, name := split(ln.Secret)
	if ln.Secret == "" {
		tenant, name = ln.Tenant, ln.Path
	}
	if !strings.Contains(secret, ":") {
		return name == secret
	}
	wantTenant, wantName := split(secret)
	return tenant == wantTenant && name == wantName
}

// split is what backends.Ref.String put together.
func split(ref string) (tenant, name string) {
	if tenant, name, ok := strings.Cut(ref, ":"); ok {
		return tenant, name
	}
	return backends.DefaultTenant, ref
}
