package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/keybroker/keybroker/rotation"
)

// Record is one line of the log.
type Record struct {
	rotation.AuditEvent
	// Sensitive are strings that are secret, or may be, by what they are: the log has
	// only their keyed hashes (Log.Hash), as "hashes".
	Sensitive map[string]string `json:"-"`
}

// Durability is when a record counts as written.
type Durability int

// The durabilities. Either way it is on disk within a second.
const (
	Written Durability = iota // the operating system has it: it outlives this process
	Synced                    // the disk has it: it outlives the machine's power
)

// KindCheckpoint is the kind of the records in which the log signs itself.
const KindCheckpoint rotation.AuditKind = "checkpoint"

// Line is one line of a journal as it is read back.
type Line struct {
	Index int64  `json:"index"` // from 0 on, without a gap, over all segments
	Prev  string `json:"prev"`  // the leaf hash of the line before, in base64; empty: there is none
	rotation.AuditEvent
	Seq  int64  `json:"seq,omitempty"`        // of the outbox; requests have none
	Note string `json:"checkpoint,omitempty"` // of a checkpoint: the signed note

	// Raw is the line itself, without its end.
	Raw []byte `json:"-"`
}

// Leaf is what the next line calls "prev".
func (ln Line) Leaf() string { return leafOf(ln.Raw).String() }

// ParseLine reads one line; it keeps raw.
func ParseLine(raw []byte) (Line, error) {
	var ln Line
	if err := json.Unmarshal(raw, &ln); err != nil {
		return Line{}, fmt.Errorf("decoding a line of the audit log: %w", err)
	}
	ln.Raw = raw
	return ln, nil
}

// body is what of a line is known before its place in the log is.
type body struct {
	rotation.AuditEvent
	Seq int64 `json:"seq,omitempty"`
}

const (
	maxText  = 8 << 10 // bytes of any text of a record; receivers have limits of their own
	maxTexts = 64      // in detail, and of hashes
)

// bound shortens what a record says, and what it is about, to what is kept.
func (b *body) bound() {
	for _, text := range []*string{&b.Request, &b.Tenant, &b.Actor, &b.Role, &b.Method, &b.Identity, &b.Address, &b.Action, &b.Path, &b.Outcome, &b.Capability, &b.Policy, &b.Rule, &b.Secret} {
		*text = shortened(*text)
	}
	b.Kind = rotation.AuditKind(shortened(string(b.Kind)))
	b.Detail, b.Hashes = boundAll(b.Detail), boundAll(b.Hashes)
}

func shortened(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

func boundAll(texts map[string]string) map[string]string {
	if len(texts) <= maxTexts && !slices.ContainsFunc(slices.Collect(maps.Values(texts)), func(s string) bool { return len(s) > maxText }) &&
		!slices.ContainsFunc(slices.Collect(maps.Keys(texts)), func(s string) bool { return len(s) > maxText }) {
		return texts
	}
	out := map[string]string{}
	for i, name := range slices.Sorted(maps.Keys(texts)) {
		if i == maxTexts {
			out["…"] = fmt.Sprintf("%d more", len(texts)-maxTexts)
			break
		}
		out[shortened(name)] = shortened(texts[name])
	}
	return out
}

func (b body) encode() ([]byte, error) {
	b.At = b.At.UTC()
	b.bound()
	text, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encoding an audit record: %w", err)
	}
	return text, nil
}

// signedBody is that of a checkpoint. All in it is signed or follows from what is, so
// that not even such a line can be changed unseen.
type signedBody struct {
	Kind rotation.AuditKind `json:"kind"`
	Note string             `json:"checkpoint"`
}

const indexKey = `{"index":`

// place gives a body its place: the line, without its end.
func place(index int64, prev string, body []byte) []byte {
	line := make([]byte, 0, len(indexKey)+20+len(`,"prev":"",`)+len(prev)+len(body))
	line = append(line, indexKey...)
	line = strconv.AppendInt(line, index, 10)
	line = append(line, `,"prev":"`...)
	line = append(line, prev...)
	line = append(line, `",`...)
	return append(line, body[1:]...)
}

// indexOf reads the index of a line and nothing else; false if it has none.
func indexOf(line []byte) (int64, bool) {
	digits, ok := bytes.CutPrefix(line, []byte(indexKey))
	end := bytes.IndexByte(digits, ',')
	if !ok || end < 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(digits[:end]), 10, 64)
	return n, err == nil && n >= 0
}

// leafOf is the hash of a line as RFC 6962, section 2.1 has it: the SHA-256 of a zero
// byte and the line without its end. It is what the next line calls "prev".
func leafOf(line []byte) tlog.Hash { return tlog.RecordHash(line) }
