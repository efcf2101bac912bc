package daemon

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/privatefile"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// The broker's own keys: 32 random bytes each, made at the first start, kept
// sealed in the store.
const (
	keyFingerprint  = "fingerprint"
	keyTokenPepper  = "token-pepper"
	keyCursors      = "cursors"
	keyAPIKeyPepper = "api-key-pepper"
	keyAuditHash    = "audit-hash"
	keyAuditSigning = "audit-signing"
	keyReports      = "incident-report" // signs them: ed25519, of which this is the seed
)

// ownKey returns one of the broker's own keys; nodes that start together agree.
func ownKey(ctx context.Context, db *store.DB, sealer *seal.Keyring, name string) ([]byte, error) {
	sealed, err := db.OwnKeyOrAdd(ctx, name, func(ad []byte) ([]byte, error) {
		fresh := make([]byte, 32)
		_, _ = rand.Read(fresh) // never fails
		defer clear(fresh)
		return sealer.Seal(ctx, fresh, ad)
	})
	if err != nil {
		return nil, err
	}
	key, err := sealer.Open(ctx, sealed.Sealed, sealed.AssociatedData())
	if err != nil {
		return nil, fmt.Errorf("opening the broker's own key %s: %w", name, err)
	}
	return key, nil
}

// fingerprinter returns the keyed fingerprint of a secret text within a tenant.
func fingerprinter(key []byte) func(tenant, value string) string {
	return func(tenant, value string) string {
		mac := hmac.New(sha256.New, key)
		_, _ = fmt.Fprintf(mac, "%d:%s:", len(tenant), tenant)
		mac.Write([]byte(value))
		return hex.EncodeToString(mac.Sum(nil))
	}
}

// signingSecrets are those that the operator has a consumer's messages signed with; none:
// the broker has its own keys for it.
func signingSecrets(c *config.Consumer) ([]backends.SecretString, error) {
	if c.SigningSecret != "" {
		return []backends.SecretString{c.SigningSecret}, nil
	}
	if c.SigningSecretFile == "" {
		return nil, nil
	}
	content, err := os.ReadFile(c.SigningSecretFile)
	if err != nil {
		return nil, fmt.Errorf("reading the signing secrets of consumer %s: %w", c.Name, err)
	}
	var secrets []backends.SecretString
	for line := range strings.Lines(string(content)) {
		if line = strings.TrimSpace(line); line != "" {
			secrets = append(secrets, backends.SecretString(line))
		}
	}
	if len(secrets) == 0 {
		return nil, fmt.Errorf("%w: %s, with the signing secrets of consumer %s, is empty", backends.ErrInvalid, c.SigningSecretFile, c.Name)
	}
	return secrets, nil
}

// notifierSecret is the signing secret that was given, or the one in the file, which
// unless it is named is the usual one. Where that is missing, a secret is made, and write
// puts it there, for the receiver to be given.
func notifierSecret(name string, given backends.SecretString, path, usual string) (_ backends.SecretString, write func() error, err error) {
	if given != "" {
		return given, nil, nil
	}
	if path == "" {
		path = usual
	}
	text, err := os.ReadFile(path)
	if err == nil {
		return backends.SecretString(trimNewline(text)), nil, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", nil, fmt.Errorf("reading the signing secret of notifier %s: %w", name, err)
	}
	secret := webhook.GenerateSecret()
	return secret, func() error {
		if err := writePrivate(path, secret); err != nil {
			return fmt.Errorf("writing the signing secret of notifier %s: %w", name, err)
		}
		return nil
	}, nil
}

func trimNewline(b []byte) string {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return string(b)
}

// writePrivate writes a secret to a private file, in the place of the one that is there.
func writePrivate(path string, secret backends.SecretString) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return privatefile.Replace(path, func(w io.Writer) error {
		_, err := io.WriteString(w, secret.Reveal()+"\n")
		return err
	})
}
