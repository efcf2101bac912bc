package audit

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keybroker/keybroker/backends"
)

// OriginPrefix and the id of the node are the name of a log, in its checkpoints and in
// the key that they are verified by.
const OriginPrefix = "keybroker/audit/"

// Checkpoint is what a log says of itself under its signature: how many lines it has
// had, and the root of the Merkle tree over them. Its note is that of C2SP's
// tlog-checkpoint, signed by ed25519; the lines after the root are ours.
type Checkpoint struct {
	Origin string
	Size   int64 // lines; as the index of its own line in the log it is the same number
	Root   tlog.Hash
	At     time.Time
	Seq    int64  // the highest of the outbox so far
	Note   string // as it was signed

	tree tree
}

// signer signs the checkpoints of one log.
type signer struct {
	note.Verifier
	key    ed25519.PrivateKey
	public string
}

func newSigner(node string, seed []byte) (*signer, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%w: the key that signs the audit log has %d bytes", backends.ErrInvalid, len(seed))
	}
	key := ed25519.NewKeyFromSeed(seed)
	public, err := note.NewEd25519VerifierKey(OriginPrefix+node, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("%w: naming the key that signs the audit log: %w", backends.ErrInvalid, err)
	}
	v, err := note.NewVerifier(public)
	if err != nil {
		return nil, fmt.Errorf("%w: naming the key that signs the audit log: %w", backends.ErrInvalid, err)
	}
	return &signer{v, key, public}, nil
}

// Sign implements note.Signer.
func (s *signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// sign makes the checkpoint of a tree.
func (s *signer) sign(t tree, seq int64, at time.Time) (Checkpoint, error) {
	c := Checkpoint{Origin: s.Name(), Size: t.size, Root: t.root(), At: at.UTC(), Seq: seq, tree: t.clone()}
	signed, err := note.Sign(&note.Note{Text: c.text()}, s)
	if err != nil {
		return c, fmt.Errorf("signing the audit log: %w", err)
	}
	c.Note = string(signed)
	return c, nil
}

func (c Checkpoint) text() string {
	var subtrees []string
	for _, h := range c.tree.full {
		subtrees = append(subtrees, h.String())
	}
	return fmt.Sprintf("%s\n%d\n%s\ntime %s\nseq %d\nsubtrees %s\n", c.Origin, c.Size, c.Root, c.At.Format(time.RFC3339Nano), c.Seq, strings.Join(subtrees, ","))
}

// NewVerifier reads the public key of a log, as `keybroker audit key` prints it.
func NewVerifier(key string) (note.Verifier, error) {
	v, err := note.NewVerifier(strings.TrimSpace(key))
	if err != nil {
		return nil, fmt.Errorf("%w: this is no public key of an audit log; it looks as in keybroker/audit/NODE+1a2b3c4d+…", backends.ErrInvalid)
	}
	return v, nil
}

// OpenCheckpoint reads a signed note. ErrDenied: it is not signed by this key;
// ErrInvalid: it is none, or not as this broker writes them.
func OpenCheckpoint(text string, by note.Verifier) (Checkpoint, error) {
	n, err := note.Open([]byte(text), note.VerifierList(by))
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	switch {
	case errors.As(err, &unverified):
		return Checkpoint{}, fmt.Errorf("%w: the checkpoint is signed by another key than %s", backends.ErrDenied, by.Name())
	case errors.As(err, &invalid):
		return Checkpoint{}, fmt.Errorf("%w: the signature of the checkpoint is wrong", backends.ErrDenied)
	case err != nil:
		return Checkpoint{}, fmt.Errorf("%w: this is no signed checkpoint", backends.ErrInvalid)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return c, err
	}
	// Nothing that is not signed is let through: no second way to write the same.
	if _, err := base64.StdEncoding.Strict().DecodeString(n.Sigs[0].Base64); err != nil || len(n.UnverifiedSigs) > 0 || len(n.Sigs) != 1 {
		return c, fmt.Errorf("%w: the signature of the checkpoint is not as it was written", backends.ErrInvalid)
	}
	if c.Origin != by.Name() || c.text() != n.Text || !c.tree.whole() || c.tree.root() != c.Root {
		return c, fmt.Errorf("%w: the checkpoint contradicts itself", backends.ErrInvalid)
	}
	c.Note = text
	return c, nil
}

func parseCheckpoint(text string) (c Checkpoint, err error) {
	lines := strings.Split(text, "\n")
	bad := fmt.Errorf("%w: the checkpoint is not as keybroker writes it", backends.ErrInvalid)
	if len(lines) != 7 || lines[6] != "" {
		return c, bad
	}
	at, okAt := strings.CutPrefix(lines[3], "time ")
	seq, okSeq := strings.CutPrefix(lines[4], "seq ")
	subtrees, okSub := strings.CutPrefix(lines[5], "subtrees ")
	if !okAt || !okSeq || !okSub {
		return c, bad
	}
	c.Origin = lines[0]
	var errs [4]error
	c.Size, errs[0] = strconv.ParseInt(lines[1], 10, 64)
	c.Root, errs[1] = tlog.ParseHash(lines[2])
	c.At, errs[2] = time.Parse(time.RFC3339Nano, at)
	c.Seq, errs[3] = strconv.ParseInt(seq, 10, 64)
	if errors.Join(errs[:]...) != nil {
		return c, bad
	}
	c.tree.size = c.Size
	for s := range strings.SplitSeq(subtrees, ",") {
		h, err := tlog.ParseHash(s)
		if err != nil {
			return c, bad
		}
		c.tree.full = append(c.tree.full, h)
	}
	return c, nil
}

// ReadCheckpoint reads what a note says, and does not ask who signed it: what it says of
// its log is a hint.
func ReadCheckpoint(text string) (Checkpoint, error) {
	said, _, _ := strings.Cut(text, "\n\n")
	return parseCheckpoint(said + "\n")
}

// NewestOf returns the newest of the notes that this log has signed, and why others are
// not believed. Empty ones are left out.
func NewestOf(cfg Config, notes ...string) (newest string, bad []error) {
	s, err := newSigner(cfg.Node, cfg.SigningSeed)
	if err != nil {
		return "", []error{err}
	}
	size := int64(-1)
	for _, n := range notes {
		if n == "" {
			continue
		}
		c, err := OpenCheckpoint(n, s)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		if c.Size > size {
			newest, size = n, c.Size
		}
	}
	return newest, bad
}

// Extends tells whether the log has, or has had, what a checkpoint of it says: nothing
// that it has signed since may take its place otherwise.
func (l *Log) Extends(note string) bool {
	c, err := OpenCheckpoint(note, l.signer)
	newest := l.Checkpoint()
	switch {
	case err != nil:
		return true // it is none of this log
	case c.Size >= newest.Size:
		return c.Size == newest.Size && c.Root == newest.Root
	}
	all, err := segments(l.cfg.Path)
	if err != nil {
		return true // nothing is known against it
	}
	ln, there, err := lineAt(all, c.Size)
	if err != nil || !there || ln.Note == note {
		return true
	}
	again, err := OpenCheckpoint(ln.Note, l.signer) // behind a gap it was signed anew
	return err == nil && ln.Prev == "" && again.Root == c.Root
}
