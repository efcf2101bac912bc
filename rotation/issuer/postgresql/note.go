package postgresql

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// note is what a role's comment (COMMENT ON ROLE) says of its password, so that the
// role itself knows which version it holds: it is written in the transaction that
// sets the password. Everybody who can log in to the server can read it.
type note struct {
	Secret  string `json:"secret"`        // TENANT:NAME
	Version int    `json:"version"`       // held; 0: none, the role has no password
	Highest int    `json:"highest"`       // of all versions that it has held, or shall never hold
	Tag     string `json:"tag,omitempty"` // of the version held
	// At is when the password was set or taken away, by the server's clock, shortly before
	// that was committed.
	At time.Time `json:"at"`
	// Settled is an instant after that commit, and before anybody was given the password:
	// what began before it did so by another. Zero: nobody was given it yet.
	Settled time.Time `json:"settled,omitzero"`
	// Last is whose password it was before.
	Last *span `json:"last,omitempty"`
}

// span is a credential that a role held before, until note.Settled.
type span struct {
	Tag  string    `json:"tag,omitempty"`
	From time.Time `json:"from,omitzero"` // zero: since nobody knows when
}

// mark begins the line of a comment that is ours. What people wrote stands above it.
const mark = "keybroker: "

// split parts a comment in people's text and our note; nil if there is none.
// ErrConflict if there is one that cannot be read: it would be overwritten.
func split(comment string) (text string, n *note, err error) {
	at := strings.LastIndex(comment, mark)
	if at < 0 || at > 0 && comment[at-1] != '\n' {
		return comment, nil, nil
	}
	n = new(note)
	if err := json.Unmarshal([]byte(comment[at+len(mark):]), n); err != nil || n.Secret == "" {
		return comment, nil, fmt.Errorf("%w: its comment has a line of keybroker's that cannot be read: take that line out of it (COMMENT ON ROLE), if the role is to be managed anew", backends.ErrConflict)
	}
	return strings.TrimSuffix(comment[:at], "\n"), n, nil
}

// join undoes split.
func join(text string, n note) string {
	line, _ := json.Marshal(n) // texts, numbers and times
	if text != "" {
		text += "\n"
	}
	return text + mark + string(line)
}

func owner(ref backends.Ref) string { return ref.Tenant + ":" + ref.Name }

// mine refuses a role that another secret holds.
func (n *note) mine(ref backends.Ref) error {
	if n == nil || n.Secret == owner(ref) {
		return nil
	}
	return fmt.Errorf("%w: by its comment it holds a version of the secret %s: two secrets must not set the same role's password", backends.ErrInvalid, n.Secret)
}

// set is the note once version req of its secret is set; like those of back and
// without it has no time yet, unless it is set once more.
func (n *note) set(req issuer.Request) (note, error) {
	next := note{Secret: owner(req.Subject.Ref), Version: req.Version, Highest: req.Version, Tag: req.Tag}
	if n == nil || n.Version == 0 && n.mine(req.Subject.Ref) != nil { // nobody's, or nobody's any more
		return next, nil
	}
	if err := n.mine(req.Subject.Ref); err != nil {
		return note{}, err
	}
	if n.holds(req.Tag) && n.Version == req.Version && n.Highest == req.Version {
		return *n, nil // once more
	}
	if req.Version <= n.Highest {
		return note{}, fmt.Errorf("%w: it has held version %d of the secret, or gone back from it, so version %d comes too late (if the broker's store was made anew: COMMENT ON ROLE … IS NULL)", backends.ErrConflict, n.Highest, req.Version)
	}
	if n.Version > 0 {
		next.Last = &span{Tag: n.Tag}
	}
	return next, nil
}

// back is the note once an older version, req with that tag, is set again in place
// of version over.
func (n *note) back(req issuer.Request, tag string, over int) (note, error) {
	next := note{Secret: owner(req.Subject.Ref), Version: req.Version, Highest: over, Tag: tag}
	if n == nil {
		return next, nil
	}
	if err := n.mine(req.Subject.Ref); err != nil {
		return note{}, err
	}
	switch {
	case n.Highest > over:
		return note{}, fmt.Errorf("%w: it has held version %d of the secret since, so nothing is put back over version %d", backends.ErrConflict, n.Highest, over)
	case n.holds(tag) && n.Version == req.Version: // version over never arrived, or this is said again
		again := *n
		again.Highest = over
		return again, nil
	case n.Version == 0 && n.Last != nil && n.Last.Tag == tag:
		return note{}, fmt.Errorf("%w: version %d was revoked", backends.ErrConflict, req.Version)
	}
	if n.Version > 0 {
		next.Last = &span{Tag: n.Tag, From: n.begins()}
	}
	return next, nil
}

// errNoLine: somebody took our line out of the comment of a role.
var errNoLine = fmt.Errorf("%w: keybroker's line is gone from its comment, so whose password it has cannot be told: ALTER ROLE … PASSWORD NULL turns it off, if it is not in use, and `keybroker retirement done` says so", backends.ErrConflict)

// without is the note once the version with that tag is revoked; ok is false if the
// role holds it no more.
func (n *note) without(ref backends.Ref, tag string) (next note, ok bool, err error) {
	switch {
	case n == nil && tag == Imported: // nobody has replaced it
		return note{Secret: owner(ref), Last: &span{Tag: tag}}, true, nil
	case n == nil:
		return note{}, false, errNoLine
	case n.mine(ref) != nil || !n.holds(tag):
		return note{}, false, nil
	}
	next = note{Secret: n.Secret, Highest: n.Highest, Last: &span{Tag: tag, From: n.since()}}
	return next, true, nil
}

func (n *note) holds(tag string) bool { return n.Version > 0 && n.Tag == tag }

// same tells whether n is other.
func (n *note) same(other note) bool {
	return n != nil && n.Secret == other.Secret && n.Version == other.Version && n.Highest == other.Highest && n.Tag == other.Tag &&
		n.At.Equal(other.At) && n.Settled.Equal(other.Settled)
}

// begins is from when on a session can have begun by what is held.
func (n *note) begins() time.Time {
	if n.Settled.IsZero() {
		return n.At
	}
	return n.Settled
}

// since is from when sessions belong to what is held: not before what was put back from.
func (n *note) since() time.Time {
	if n.Last != nil && !n.Last.From.IsZero() {
		return time.Time{}
	}
	return n.begins()
}

// sessions says in which time the sessions of the credential with that tag began;
// zero: without a bound. known is false if the note says nothing of it.
func (n *note) sessions(tag string) (from, until time.Time, known bool) {
	switch {
	case n == nil:
		return time.Time{}, time.Time{}, tag == Imported
	case n.holds(tag):
		return n.since(), time.Time{}, true
	}
	if n.Version > 0 { // until it is settled nobody has what is held
		until = n.Settled
	}
	if n.Last != nil && n.Last.Tag == tag {
		return n.Last.From, until, true
	}
	return time.Time{}, until, false
}
