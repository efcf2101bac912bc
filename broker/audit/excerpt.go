package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keybroker/keybroker/backends"
)

// Excerpt is a part of the log that proves itself: whoever has the public key can tell
// that each of its lines stood where it says, without the rest of the log.
type Excerpt struct {
	Origin string `json:"origin"`
	Key    string `json:"key"` // public; verifies the checkpoints
	// From and To are the indices of the first and the last line that was looked at.
	From int64 `json:"from"`
	To   int64 `json:"to"`
	// Since is from when on every record was looked at that is still there; one that
	// happened before may be missing.
	Since time.Time `json:"since,omitzero"`
	// Cut: there are more lines than were taken, from index To on.
	Cut    bool    `json:"cut,omitempty"`
	Blocks []Block `json:"blocks"`
}

// Block are lines that one checkpoint covers.
type Block struct {
	Checkpoint string       `json:"checkpoint"` // the signed note
	Lines      []PlacedLine `json:"lines"`
	// Proof are the hashes of what lies between the lines, from the left to the right, each
	// of the largest subtree (RFC 6962) that has none of them.
	Proof []string `json:"proof"`
}

// PlacedLine is a line of the log, without its end.
type PlacedLine struct {
	Index int64  `json:"index"`
	Line  string `json:"line"`
}

// About chooses the lines of an excerpt, of which more than Limit are not taken.
type About struct {
	Since time.Time
	// Paths and Secrets are what lines may be about: one of either is enough.
	Paths   map[string]bool
	Secrets map[string]bool // TENANT:NAME, or NAME in the default tenant
	Choose  func(Line) bool // of those; nil: all
	Limit   int
}

// maxExcerpt is how many bytes of the log an excerpt is looked for in: the newest.
const maxExcerpt = 4 << 30

// Excerpt signs what was written and takes the lines about something out of the log.
func (l *Log) Excerpt(ctx context.Context, a About) (Excerpt, error) {
	out := Excerpt{Origin: l.Origin(), Key: l.PublicKey(), Since: a.Since, From: -1, To: -1, Blocks: []Block{}}
	newest, err := l.Sign(ctx)
	if err != nil {
		return out, err
	}
	all, err := segments(l.cfg.Path)
	if err != nil {
		return out, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	x := &excerpting{About: a, ctx: ctx, by: l.signer, until: newest.Size, out: &out, left: a.Limit}
	first, err := l.sinceWhen(all, a.Since)
	if err != nil {
		return out, err
	}
	if first < len(all) && all[first].first > 0 {
		if c, err := l.beginning(all[first]); err == nil && c.At.After(a.Since) {
			out.Since = c.At
		}
	}
	for _, s := range all[first:] {
		if s.first < 0 || x.done {
			continue
		}
		if err := read(s.path, x.segment); err != nil {
			return out, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
		}
	}
	if ctx.Err() != nil {
		return out, fmt.Errorf("%w: looking through the audit log: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	return out, nil
}

// sinceWhen is the first segment that has lines written since a time, or the first of
// those that are not too much to look through.
func (l *Log) sinceWhen(all []segment, since time.Time) (int, error) {
	first, size := len(all), int64(0)
	for first > 0 {
		info, err := os.Stat(all[first-1].path)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
		}
		if size += info.Size(); size > maxExcerpt && first < len(all) {
			break
		}
		first--
		c, err := l.beginning(all[first])
		if err != nil {
			return 0, err
		}
		if c.Size > 0 && c.At.Before(since) {
			break
		}
	}
	return first, nil
}

// excerpting goes over the lines of the log once.
type excerpting struct {
	About
	ctx    context.Context //nolint:containedctx // it lives for one call
	by     *signer
	until  int64 // the size that is signed for
	left   int
	now    tree // over all lines so far
	known  bool // that it is: at the beginning of a log it is empty
	before tree // at the checkpoint before the lines of the block
	leaves []tlog.Hash
	chosen []PlacedLine
	done   bool
	out    *Excerpt
}

func (x *excerpting) segment(f *os.File, size int64) error {
	r := bufio.NewReaderSize(io.NewSectionReader(f, 0, size), blockSize)
	for n := 0; !x.done; n++ {
		raw, _, err := nextLine(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the audit log: %w", err)
		}
		if n%timeEvery == 0 && x.ctx.Err() != nil {
			return nil
		}
		x.line(raw)
	}
	return nil
}

// line takes one in. Where the log has a gap, or was damaged, the block that it is in is
// given up: nothing proves it.
func (x *excerpting) line(raw []byte) {
	index, ok := indexOf(raw)
	if !ok {
		x.known = false
		return
	}
	if index == 0 {
		x.begin(tree{})
	}
	signed := bytes.Contains(raw, []byte(`"kind":"checkpoint"`))
	if x.known = x.known && index == x.now.size; !x.known && signed {
		if c, ok := x.by.checkpointOf(raw); ok {
			x.begin(c.tree.clone())
		}
	}
	if !x.known {
		return
	}
	if signed {
		x.close(raw)
	}
	if x.done = x.done || index >= x.until; x.done {
		return
	}
	if x.out.From < 0 {
		x.out.From = index
	}
	leaf := leafOf(raw)
	x.now.add(leaf)
	x.leaves = append(x.leaves, leaf)
	if x.left > len(x.chosen) && x.wants(raw) {
		x.chosen = append(x.chosen, PlacedLine{index, string(raw)})
	}
}

// begin begins a block.
func (x *excerpting) begin(at tree) {
	x.now, x.before, x.known = at, at.clone(), true
	x.leaves, x.chosen = x.leaves[:0], nil
}

// wants tells whether a line is looked for; most are told apart without being decoded.
func (x *excerpting) wants(raw []byte) bool {
	if !x.Paths[textAfter(raw, `"path":"`, bytes.Index)] && !x.Secrets[textAfter(raw, `"secret":"`, bytes.LastIndex)] {
		return false
	}
	ln, err := ParseLine(raw)
	if err != nil || ln.Kind == KindCheckpoint || ln.At.Before(x.Since) {
		return false
	}
	return (x.Paths[ln.Path] || x.Secrets[ln.Secret]) && (x.Choose == nil || x.Choose(ln))
}

// textAfter is a JSON string that needs no escapes.
func textAfter(raw []byte, key string, index func(s, sep []byte) int) string {
	at := index(raw, []byte(key))
	if at < 0 {
		return ""
	}
	text := raw[at+len(key):]
	if end := bytes.IndexByte(text, '"'); end >= 0 {
		return string(text[:end])
	}
	return ""
}

// close ends a block by the checkpoint that covers it, which takes no look at its
// signature where nothing of the block is wanted.
func (x *excerpting) close(raw []byte) {
	x.out.To = max(x.out.To, x.now.size-1)
	if len(x.chosen) == 0 {
		x.begin(x.now)
		return
	}
	c, ok := x.by.checkpointOf(raw)
	if !ok || c.Size != x.now.size || c.Root != x.now.root() {
		return // a later one may cover it as well
	}
	p := proving{before: x.before, leaves: x.leaves, chosen: x.chosen}
	p.prove(0, c.Size)
	x.out.Blocks = append(x.out.Blocks, Block{Checkpoint: c.Note, Lines: x.chosen, Proof: p.proof})
	if x.left -= len(x.chosen); x.left <= 0 {
		x.done, x.out.Cut = true, c.Size < x.until
	}
	x.begin(x.now)
}

// proving makes the proof of a block.
type proving struct {
	before tree
	leaves []tlog.Hash // behind it
	chosen []PlacedLine
	proof  []string
}

// has tells whether a chosen line is in a subtree.
func has(chosen []PlacedLine, low, high int64) bool {
	i, _ := slices.BinarySearchFunc(chosen, low, func(l PlacedLine, low int64) int { return int(l.Index - low) })
	return i < len(chosen) && chosen[i].Index < high
}

func (p *proving) prove(low, high int64) {
	switch {
	case !has(p.chosen, low, high):
		p.proof = append(p.proof, p.hash(low, high).String())
	case high-low > 1:
		k := leftOf(high - low)
		p.prove(low, low+k)
		p.prove(low+k, high)
	}
}

// hash is that of a subtree: of one before the leaves the tree has it.
func (p *proving) hash(low, high int64) tlog.Hash {
	if high <= p.before.size {
		return p.before.subtree(low, high)
	}
	if high-low == 1 {
		return p.leaves[low-p.before.size]
	}
	k := leftOf(high - low)
	return tlog.NodeHash(p.hash(low, low+k), p.hash(low+k, high))
}

// leftOf is where RFC 6962, section 2.1 divides a tree of n leaves.
func leftOf(n int64) int64 {
	k := int64(1)
	for k<<1 < n {
		k <<= 1
	}
	return k
}

// subtree returns the hash of one of the full subtrees that a tree is made of.
func (t tree) subtree(low, high int64) tlog.Hash {
	at := int64(0)
	for i, h := range t.full {
		n := fullSize(t.size, i)
		if at == low && n == high-low {
			return h
		}
		at += n
	}
	return tlog.Hash{} // there is none: what is made of it verifies as nothing
}

// fullSize is how many leaves the i-th largest full subtree of a tree has.
func fullSize(size int64, i int) int64 {
	for bit := int64(1) << 62; bit > 0; bit >>= 1 {
		if size&bit == 0 {
			continue
		}
		if i == 0 {
			return bit
		}
		i--
	}
	return 0
}

// Verify tells whether every line stood in the log where the excerpt says, as far as its
// own key is believed. ErrInvalid names the first that did not.
func (x Excerpt) Verify() ([]Line, error) {
	if len(x.Blocks) == 0 {
		return nil, nil
	}
	by, err := NewVerifier(x.Key)
	if err != nil {
		return nil, err
	}
	if by.Name() != x.Origin {
		return nil, fmt.Errorf("%w: the log is called %s, and its key is that of %s", backends.ErrInvalid, x.Origin, by.Name())
	}
	var lines []Line
	last := int64(-1)
	for _, b := range x.Blocks {
		read, err := b.verify(by, last)
		if err != nil {
			return nil, err
		}
		lines = append(lines, read...)
		last = lines[len(lines)-1].Index
	}
	if lines[0].Index < x.From || last > x.To {
		return nil, fmt.Errorf("%w: the excerpt has lines from outside of what was looked at", backends.ErrInvalid)
	}
	return lines, nil
}

func (b Block) verify(by note.Verifier, last int64) (lines []Line, err error) {
	c, err := OpenCheckpoint(b.Checkpoint, by)
	if err != nil {
		return nil, err
	}
	if len(b.Lines) == 0 {
		return nil, fmt.Errorf("%w: a block of the excerpt, up to record %d, has no lines", backends.ErrInvalid, c.Size)
	}
	for _, l := range b.Lines {
		ln, err := ParseLine([]byte(l.Line))
		if index, ok := indexOf([]byte(l.Line)); err != nil || !ok || index != l.Index || ln.Index != l.Index || l.Index <= last || l.Index >= c.Size {
			return nil, fmt.Errorf("%w: record %d of %s is not as it was written", backends.ErrInvalid, l.Index, c.Origin)
		}
		last = l.Index
		lines = append(lines, ln)
	}
	v := checking{lines: b.Lines, proof: b.Proof}
	root := v.root(0, c.Size)
	if v.bad || len(v.proof) > 0 || root != c.Root {
		return nil, fmt.Errorf("%w: the records from %d to %d of %s are not what the log was signed with, up to record %d", backends.ErrInvalid, b.Lines[0].Index, last, c.Origin, c.Size-1)
	}
	return lines, nil
}

// checking works a root out of lines and what is between them.
type checking struct {
	lines []PlacedLine
	proof []string // what is not used yet
	bad   bool
}

func (v *checking) root(low, high int64) (h tlog.Hash) {
	if !has(v.lines, low, high) {
		if v.bad = v.bad || len(v.proof) == 0; v.bad {
			return h
		}
		text := v.proof[0]
		v.proof = v.proof[1:]
		h, err := tlog.ParseHash(text)
		v.bad = err != nil || h.String() != text
		return h
	}
	if high-low == 1 {
		i, _ := slices.BinarySearchFunc(v.lines, low, func(l PlacedLine, low int64) int { return int(l.Index - low) })
		return leafOf([]byte(v.lines[i].Line))
	}
	k := leftOf(high - low)
	left := v.root(low, low+k)
	return tlog.NodeHash(left, v.root(low+k, high))
}

// Lacks returns the first line of the excerpt that is not in a journal just so; nil: it
// has all of them. Paths are as those of a Verification.
func (x Excerpt) Lacks(paths []string) (*PlacedLine, error) {
	all, err := collect(paths)
	if err != nil {
		return nil, err
	}
	for _, b := range x.Blocks {
		for _, l := range b.Lines {
			ln, there, err := lineAt(all, l.Index)
			if err != nil {
				return nil, err
			}
			if !there || string(ln.Raw) != l.Line {
				return &l, nil
			}
		}
	}
	return nil, nil
}
