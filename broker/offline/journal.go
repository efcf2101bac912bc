package offline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/privatefile"
)

// JournalSuffix is what the name of a journal has behind that of its kit.
const JournalSuffix = ".journal"

// What a record of a journal is.
const (
	opened   = "open"   // somebody began to revoke
	intended = "intent" // an issuer is about to be asked
	came     = "result" // what came of it
)

// The results.
const (
	Revoked  = "revoked"   // the issuer said yes, or knows it no more
	Open     = "open"      // it was not turned off
	Manual   = "by_hand"   // a person has to
	OnReturn = "on_return" // the broker itself is its issuer: it does once it is back
)

// Record is one line of a journal.
type Record struct {
	At time.Time `json:"at"`
	Do string    `json:"do"` // "open", "intent", "result"

	// Of open.
	ID           string    `json:"id,omitempty"` // of the journal, the same in all
	Installation string    `json:"installation,omitempty"`
	KitMadeAt    time.Time `json:"kit_made_at,omitzero"`
	Reason       string    `json:"reason,omitempty"`
	By           string    `json:"by,omitempty"`
	Host         string    `json:"host,omitempty"`

	// Of the others.
	Tenant  string `json:"tenant,omitempty"`
	Secret  string `json:"secret,omitempty"`
	Version int    `json:"version,omitempty"`
	Last    int    `json:"last,omitempty"` // of intent: the newest version that the kit knew of
	Issuer  string `json:"issuer,omitempty"`
	Result  string `json:"result,omitempty"`
	Error   string `json:"error,omitempty"`
}

// key names a version of a journal.
type key struct {
	tenant, secret string
	version        int
}

func (r Record) key() key { return key{r.Tenant, r.Secret, r.Version} }

// Journal is the file of what was revoked, for one process at a time. Each record is on
// the disk before what it says goes on.
type Journal struct {
	file    *os.File
	lock    *flock.Flock
	id      string
	revoked map[key]bool
}

// OpenJournal opens the journal at path, or begins one, for what Record says of who
// revokes and why. A last line that a crash cut off is taken away. ErrConflict if another
// process has it, or it is of another installation; ErrInvalid if it is none.
func OpenJournal(path string, begin Record) (_ *Journal, err error) {
	j := &Journal{lock: flock.New(path + ".lock"), revoked: map[key]bool{}}
	locked, err := j.lock.TryLock()
	switch {
	case err != nil:
		return nil, fmt.Errorf("locking the journal: %w", err)
	case !locked:
		return nil, fmt.Errorf("%w: somebody else is revoking by the journal %s at this moment", backends.ErrConflict, path)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.Close())
		}
	}()
	if j.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	records, whole, err := readRecords(j.file)
	if err != nil {
		return nil, err
	}
	begin.Do, begin.ID = opened, uuid.NewString()
	for _, r := range records {
		switch {
		case r.Do == opened && r.Installation != begin.Installation:
			return nil, fmt.Errorf("%w: the journal %s is of another installation; name another one with --journal", backends.ErrConflict, path)
		case r.Do == opened:
			begin.ID = r.ID
		case r.Do == came:
			j.revoked[r.key()] = r.Result == Revoked
		}
	}
	j.id = begin.ID
	if err := j.file.Truncate(whole); err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	if _, err := j.file.Seek(whole, io.SeekStart); err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	if err := privatefile.SyncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	return j, j.add(begin)
}

// readRecords reads all that is whole, and how long that is.
func readRecords(r io.Reader) (records []Record, whole int64, err error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the journal: %w", err)
	}
	end := bytes.LastIndexByte(text, '\n') + 1
	for n, one := range bytes.Split(bytes.TrimSuffix(text[:end], []byte("\n")), []byte("\n")) {
		var r Record
		if end == 0 {
			break
		}
		if json.Unmarshal(one, &r) != nil || (n == 0) && (r.Do != opened || r.ID == "") {
			return nil, 0, fmt.Errorf("%w: line %d of the journal is none of one", backends.ErrInvalid, n+1)
		}
		records = append(records, r)
	}
	return records, int64(end), nil
}

// Revoked tells whether a version was, by this journal.
func (j *Journal) Revoked(ref backends.Ref, version int) bool {
	return j.revoked[key{ref.Tenant, ref.Name, version}]
}

// add writes a record through to the disk. It is for one caller at a time.
func (j *Journal) add(r Record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	_, err = j.file.Write(append(text, '\n'))
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	if r.Do == came {
		j.revoked[r.key()] = r.Result == Revoked
	}
	return nil
}

// Close lets the journal go.
func (j *Journal) Close() error {
	var err error
	if j.file != nil {
		err = j.file.Close()
	}
	return errors.Join(err, j.lock.Unlock())
}

// Account is what a journal says as a whole.
type Account struct {
	ID           string // the same for the same account, another one once there is more in the journal
	Installation string
	KitMadeAt    time.Time // of the oldest kit that was used
	Reason       string    // the latest
	By, Host     string
	From, To     time.Time // of the first and the last record
	Versions     []Settled
}

// Settled is one version that somebody wanted revoked, and what came of it last.
type Settled struct {
	Ref     backends.Ref
	Version int
	Last    int // the newest version that the kit knew of
	At      time.Time
	Result  string // empty: nobody knows, the answer was never heard
	Error   string
}

// ReadJournal reads a journal, for the broker that is back. ErrNotFound if there is none.
func ReadJournal(path string) (Account, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Account{}, fmt.Errorf("%w: there is no journal at %s", backends.ErrNotFound, path)
	} else if err != nil {
		return Account{}, fmt.Errorf("opening the journal: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	records, _, err := readRecords(f)
	if err != nil {
		return Account{}, err
	}
	return account(records), nil
}

func account(records []Record) Account {
	var a Account
	at := map[key]int{}
	var journal string
	for _, r := range records {
		if a.From.IsZero() {
			a.From = r.At
		}
		a.To = r.At
		if r.Do == opened {
			journal, a.Installation, a.Reason, a.By, a.Host = r.ID, r.Installation, r.Reason, r.By, r.Host
			if a.KitMadeAt.IsZero() || r.KitMadeAt.Before(a.KitMadeAt) {
				a.KitMadeAt = r.KitMadeAt
			}
			continue
		}
		i, known := at[r.key()]
		if !known {
			i = len(a.Versions)
			at[r.key()] = i
			a.Versions = append(a.Versions, Settled{Ref: backends.Ref{Tenant: r.Tenant, Name: r.Secret}, Version: r.Version})
		}
		s := &a.Versions[i]
		s.At, s.Result, s.Error, s.Last = r.At, r.Result, r.Error, max(s.Last, r.Last)
	}
	var names []string
	for _, s := range a.Versions {
		names = append(names, fmt.Sprintf("%s %s %d", s.Ref.Tenant, s.Ref.Name, s.Version))
	}
	slices.Sort(names)
	if space, err := uuid.Parse(journal); err == nil {
		a.ID = uuid.NewSHA1(space, []byte(strings.Join(names, "\n"))).String()
	}
	return a
}
