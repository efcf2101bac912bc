package daemon

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// The broker's own keys: 32 random bytes each, made at the first start, kept
// sealed in the store.
const (
	keyFingerprint  = "key/fingerprint"
	keyTokenPepper  = "key/token-pepper"
	keyAPIKeyPepper = "key/api-key-pepper"
)

// openSeal loads the key-encryption key, or makes it at the first start. With
// data but without its key, nothing could be opened any more: that is refused,
// rather than a new key made.
func openSeal(cfg *config.Config, dataExists bool) (*seal.Sealer, error) {
	kek, err := seal.LoadFile(cfg.Seal.Path)
	if errors.Is(err, backends.ErrNotFound) {
		if dataExists {
			return nil, fmt.Errorf("%w: there is data in %s, but its seal key %s is missing: put the key back from where it is kept safe", backends.ErrNotFound, cfg.DataDir, cfg.Seal.Path)
		}
		if err := os.MkdirAll(filepath.Dir(cfg.Seal.Path), 0o700); err != nil {
			return nil, fmt.Errorf("making the directory of the seal key: %w", err)
		}
		kek, err = seal.CreateFile(cfg.Seal.Path)
	}
	if err != nil {
		return nil, err
	}
	return seal.New(kek)
}

// ownKey returns one of the broker's own keys; nodes that start together agree.
func ownKey(ctx context.Context, db *store.DB, sealer *seal.Sealer, name string) ([]byte, error) {
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // never fails
	ad := []byte("keybroker/settings/" + name)
	sealed, err := sealer.Seal(ctx, fresh, ad)
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", name, err)
	}
	err = db.Update(ctx, func(tx *store.Tx) (err error) {
		sealed, err = tx.PutSettingIfAbsent(ctx, name, sealed)
		return err
	})
	if err != nil {
		return nil, err
	}
	key, err := sealer.Open(ctx, sealed, ad)
	if err != nil {
		return nil, fmt.Errorf("opening %s: the seal key is not the one that this data was sealed with: %w", name, err)
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

// signingSecret returns what a consumer's webhooks are signed with. Where it is
// in a file that is missing, it is made, and write puts it there, for the consumer
// to be given.
func signingSecret(cfg *config.Config, c *config.Consumer) (_ backends.SecretString, write func() error, err error) {
	if c.Webhook.SigningSecret != "" {
		return c.Webhook.SigningSecret, nil, nil
	}
	path := c.Webhook.SigningSecretFile
	if path == "" {
		path = filepath.Join(cfg.DataDir, "consumers", c.Name+".whsec")
	}
	text, err := os.ReadFile(path)
	if err == nil {
		return backends.SecretString(trimNewline(text)), nil, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", nil, fmt.Errorf("reading the signing secret of consumer %s: %w", c.Name, err)
	}
	secret := webhook.GenerateSecret()
	return secret, func() error {
		if err := writePrivate(path, secret); err != nil {
			return fmt.Errorf("writing the signing secret of consumer %s: %w", c.Name, err)
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

// writePrivate writes a secret to a new file, mode 0600, whole or not at all.
func writePrivate(path string, secret backends.SecretString) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(secret.Reveal() + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
