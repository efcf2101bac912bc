// Package offline is what contains when the broker itself is down: an encrypted file with
// all that it takes to turn credentials off at their issuers, and the journal of whoever did.
package offline

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"

	"github.com/keybroker/keybroker/backends"
)

// Format is what a kit says of itself, once it is decrypted.
const Format = "keybroker-offline-kit/1"

// maxLine bounds one line of a kit, in bytes.
const maxLine = 64 << 20

// Header is what a kit says of itself.
type Header struct {
	Format       string    `json:"format"`
	MadeAt       time.Time `json:"made_at"`
	Node         string    `json:"node"`
	Installation string    `json:"installation"` // the id of the key that signs its reports
	Generation   int64     `json:"generation"`   // the last change of the state that is certainly in it
	// Credentials: what the issuers log in with is in it, but for what the broker manages.
	Credentials bool `json:"credentials"`
}

// Kit is all that is in the file. It has no value of a secret that the broker manages.
type Kit struct {
	Header
	Issuers   []Issuer   `json:"issuers"`
	Consumers []Consumer `json:"consumers"`
	Secrets   []Secret   `json:"secrets"`
}

// Issuer is who turns credentials off.
type Issuer struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Tenant string `json:"tenant,omitempty"`
	Source string `json:"source"` // its block of the configuration
	Digest string `json:"digest"` // of the block, without comments and layout
	// Managed are the secrets of the broker that it logs in with, which are not in the kit.
	Managed  []string `json:"managed,omitempty"`
	Material Material `json:"material,omitzero"`
	Problem  string   `json:"problem,omitempty"` // why its material could not be read
}

// Material is what the configuration of an issuer takes from around it, by the names and
// paths that it writes.
type Material struct {
	Env   map[string]string `json:"env,omitempty"`
	Files map[string][]byte `json:"files,omitempty"`
}

// IsZero tells whether there is none.
func (m Material) IsZero() bool { return len(m.Env)+len(m.Files) == 0 }

// Consumer is an application that feels it.
type Consumer struct {
	Name   string `json:"name"`
	Tenant string `json:"tenant,omitempty"`
	Kind   string `json:"kind"`            // "webhook", "inbox"
	Where  string `json:"where,omitempty"` // scheme and host alone
	Role   string `json:"role,omitempty"`
}

// Secret is one with its versions that may be alive.
type Secret struct {
	Tenant    string            `json:"tenant"`
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels,omitempty"`
	Current   int               `json:"current"`
	Last      int               `json:"last"` // the newest version there was
	Backend   string            `json:"backend"`
	Mirrors   []string          `json:"mirrors,omitempty"`
	Consumers []string          `json:"consumers,omitempty"`
	Versions  []Version         `json:"versions"`
}

// Ref names the secret.
func (s Secret) Ref() backends.Ref { return backends.Ref{Tenant: s.Tenant, Name: s.Name} }

// Version is one that may be alive, with what its issuer calls it.
type Version struct {
	Number      int               `json:"number"`
	Stage       string            `json:"stage"`
	Issuer      string            `json:"issuer"`
	Probe       string            `json:"probe,omitempty"`
	Settings    json.RawMessage   `json:"settings,omitempty"`
	Handle      map[string]string `json:"handle,omitempty"` // missing: nobody knows it
	Tag         string            `json:"tag,omitempty"`
	Slot        string            `json:"slot,omitempty"`
	Environment string            `json:"environment,omitempty"`
	PublishedAt time.Time         `json:"published_at,omitzero"`
	Retirement  string            `json:"retirement,omitempty"` // its state; empty: nobody is turning it off
	ByHand      string            `json:"by_hand"`              // how a person turns it off
}

// line is one of a kit: it is a header, any of the things, and at last how many there were.
type line struct {
	Kit      *Header   `json:"kit,omitempty"`
	Issuer   *Issuer   `json:"issuer,omitempty"`
	Consumer *Consumer `json:"consumer,omitempty"`
	Secret   *Secret   `json:"secret,omitempty"`
	End      *int      `json:"end,omitempty"`
}

// Writer writes a kit as it comes, encrypted to who may open it (https://age-encryption.org/v1):
// lines of JSON, compressed. It holds nothing of it in memory.
type Writer struct {
	encrypted io.WriteCloser
	zipped    *gzip.Writer
	lines     *json.Encoder
	n         int
}

// NewWriter begins a kit.
func NewWriter(w io.Writer, to []age.Recipient, h Header) (*Writer, error) {
	encrypted, err := age.Encrypt(w, to...)
	if err != nil {
		return nil, fmt.Errorf("encrypting the offline kit: %w", err)
	}
	zipped := gzip.NewWriter(encrypted)
	k := &Writer{encrypted: encrypted, zipped: zipped, lines: json.NewEncoder(zipped)}
	h.Format = Format
	return k, k.put(line{Kit: &h})
}

// Issuer adds one.
func (k *Writer) Issuer(i Issuer) error { return k.put(line{Issuer: &i}) }

// Consumer adds one.
func (k *Writer) Consumer(c Consumer) error { return k.put(line{Consumer: &c}) }

// Secret adds one.
func (k *Writer) Secret(s Secret) error { return k.put(line{Secret: &s}) }

func (k *Writer) put(l line) error {
	if err := k.lines.Encode(l); err != nil {
		return fmt.Errorf("writing the offline kit: %w", err)
	}
	k.n++
	return nil
}

// Close ends the kit: without it nobody takes it for a whole one.
func (k *Writer) Close() error {
	n := k.n
	if err := k.put(line{End: &n}); err != nil {
		return err
	}
	if err := errors.Join(k.zipped.Close(), k.encrypted.Close()); err != nil {
		return fmt.Errorf("writing the offline kit: %w", err)
	}
	return nil
}

// Read decrypts a kit by an identity file of age ("AGE-SECRET-KEY-1…" and comments).
// ErrDenied if it was not made for it; ErrInvalid if either is damaged, something else or
// not whole.
func Read(r, identityFile io.Reader) (*Kit, error) {
	identities, err := age.ParseIdentities(identityFile)
	if err != nil {
		return nil, fmt.Errorf("%w: the key file has no secret keys of age, one a line", backends.ErrInvalid) // the cause could quote one
	}
	decrypted, err := age.Decrypt(r, identities...)
	if err != nil {
		if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
			return nil, fmt.Errorf("%w: the offline kit was made for somebody else than this key", backends.ErrDenied)
		}
		return nil, fmt.Errorf("%w: this is no offline kit, or it is damaged", backends.ErrInvalid) // the cause quotes what it read
	}
	zipped, err := gzip.NewReader(decrypted)
	if err != nil {
		return nil, errDamaged
	}
	return readLines(zipped)
}

var errDamaged = fmt.Errorf("%w: the offline kit is damaged, cut off, or made by another version of keybroker", backends.ErrInvalid)

func readLines(r io.Reader) (*Kit, error) {
	k := &Kit{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 0; lines.Scan(); n++ {
		var l line
		if json.Unmarshal(lines.Bytes(), &l) != nil || (l.Kit != nil) != (n == 0) {
			return nil, errDamaged
		}
		switch {
		case l.Kit != nil:
			if k.Header = *l.Kit; k.Format != Format {
				return nil, errDamaged
			}
		case l.Issuer != nil:
			k.Issuers = append(k.Issuers, *l.Issuer)
		case l.Consumer != nil:
			k.Consumers = append(k.Consumers, *l.Consumer)
		case l.Secret != nil:
			k.Secrets = append(k.Secrets, *l.Secret)
		case l.End != nil:
			if *l.End != n || lines.Scan() || lines.Err() != nil {
				return nil, errDamaged
			}
			return k, nil
		}
	}
	return nil, errDamaged
}

// Issuer returns the one of that name.
func (k *Kit) Issuer(name string) (Issuer, bool) {
	for _, i := range k.Issuers {
		if i.Name == name {
			return i, true
		}
	}
	return Issuer{}, false
}
