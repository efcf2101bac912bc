package seal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/keybroker/keybroker/backends"
)

// escrowFormat is what an escrow copy says of itself, once it is decrypted.
const escrowFormat = "keybroker-escrow/1"

// escrow is the content of an escrow copy.
type escrow struct {
	Format string            `json:"format"`
	KEKs   map[string][]byte `json:"keks"` // by id
}

// ParseRecipients reads age public keys ("age1…"). ErrInvalid names the first that
// is none.
func ParseRecipients(texts []string) ([]age.Recipient, error) {
	var recipients []age.Recipient
	for _, text := range texts {
		r, err := age.ParseX25519Recipient(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %q is no public key of age, which begins with age1", backends.ErrInvalid, text)
		}
		recipients = append(recipients, r)
	}
	if len(recipients) == 0 {
		return nil, fmt.Errorf("%w: an escrow copy needs somebody who can open it", backends.ErrInvalid)
	}
	return recipients, nil
}

// WriteEscrow writes the KEKs encrypted to the recipients, any one of whom can open
// them: an age file in ASCII armor (https://age-encryption.org/v1).
func WriteEscrow(w io.Writer, recipients []age.Recipient, keks []*KEK) error {
	content := escrow{Format: escrowFormat, KEKs: map[string][]byte{}}
	for _, k := range keks {
		content.KEKs[k.id] = k.key()
	}
	plain, err := json.Marshal(content)
	if err != nil {
		return errors.New("encoding the keys failed") // the cause could quote them
	}
	defer clear(plain)
	armored := armor.NewWriter(w)
	encrypted, err := age.Encrypt(armored, recipients...)
	if err != nil {
		return fmt.Errorf("encrypting the escrow copy: %w", err)
	}
	if _, err := encrypted.Write(plain); err != nil {
		return fmt.Errorf("writing the escrow copy: %w", err)
	}
	if err := errors.Join(encrypted.Close(), armored.Close()); err != nil {
		return fmt.Errorf("writing the escrow copy: %w", err)
	}
	return nil
}

// ReadEscrow decrypts an escrow copy by an identity file of age ("AGE-SECRET-KEY-1…"
// and comments). ErrDenied if it is not one that the copy was made for; ErrInvalid
// if either is damaged or something else.
func ReadEscrow(r, identityFile io.Reader) ([]*KEK, error) {
	identities, err := age.ParseIdentities(identityFile)
	if err != nil {
		return nil, fmt.Errorf("%w: the identity file has no secret keys of age, one a line", backends.ErrInvalid) // the cause could quote one
	}
	decrypted, err := age.Decrypt(armor.NewReader(r), identities...)
	if err != nil {
		if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
			return nil, fmt.Errorf("%w: the escrow copy was made for somebody else than this identity", backends.ErrDenied)
		}
		return nil, fmt.Errorf("%w: this is no escrow copy, or it is damaged", backends.ErrInvalid) // the cause quotes what it read
	}
	plain, err := io.ReadAll(io.LimitReader(decrypted, 1<<20))
	defer clear(plain)
	var content escrow
	if err != nil || json.Unmarshal(plain, &content) != nil || content.Format != escrowFormat {
		return nil, fmt.Errorf("%w: the escrow copy is damaged, or made by another version of keybroker", backends.ErrInvalid)
	}
	var keks []*KEK
	for id, key := range content.KEKs {
		k, err := checkedKEK(id, key)
		if err != nil {
			return nil, fmt.Errorf("reading the escrow copy: %w", err)
		}
		keks = append(keks, k)
	}
	return keks, nil
}
