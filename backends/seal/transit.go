package seal

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

// TypeTransit is the type of seals that are a key of Vault's transit engine.
const TypeTransit = "vault_transit"

const defaultTransitMount = "transit"

// TransitConfig is the body of a seal "vault_transit" block. The key must be of a
// type that authenticates associated data, as Vault's default aes256-gcm96 is, and
// not derived. The login needs "update" on MOUNT/encrypt/KEY and MOUNT/decrypt/KEY.
type TransitConfig struct {
	Key   string `hcl:"key"`
	Mount string `hcl:"mount,optional"` // default "transit"

	Conn vaultconn.Config `hcl:",remain"`
}

// Validate reports every mistake in c, joined, each an ErrInvalid that begins with
// the attribute's name.
func (c TransitConfig) Validate() error {
	var mistakes []error
	if c.Key == "" || strings.Contains(c.Key, "/") {
		mistakes = append(mistakes, fmt.Errorf("%w: key must be the name of a transit key, without a slash", backends.ErrInvalid))
	}
	if strings.Trim(c.Mount, "/") == "" && c.Mount != "" {
		mistakes = append(mistakes, fmt.Errorf("%w: mount must be the path that the transit engine is mounted at", backends.ErrInvalid))
	}
	return errors.Join(append(mistakes, c.Conn.Validate())...)
}

// Transit is a seal that is a key of Vault's transit engine
// (https://developer.hashicorp.com/vault/api-docs/secret/transit). Versions of that
// key are Vault's own affair: each answer names the one it was made by.
type Transit struct {
	id    string
	mount string
	key   string
	conn  *vaultconn.Conn
}

var _ Seal = (*Transit)(nil)

// OpenTransit prepares the seal without asking the server. ErrInvalid only.
func OpenTransit(ctx context.Context, cfg TransitConfig, logger hclog.Logger) (*Transit, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	conn, err := vaultconn.Dial(ctx, cfg.Conn, logger)
	if err != nil {
		return nil, err
	}
	mount := strings.Trim(cmp.Or(cfg.Mount, defaultTransitMount), "/")
	at := []string{strings.TrimRight(cfg.Conn.Address, "/")}
	if ns := strings.Trim(cfg.Conn.Namespace, "/"); ns != "" {
		at = append(at, ns)
	}
	return &Transit{id: TypeTransit + ":" + strings.Join(append(at, mount, cfg.Key), "/"), mount: mount, key: cfg.Key, conn: conn}, nil
}

// ID implements Seal.
func (t *Transit) ID() string { return t.id }

// Close ends the login's renewal.
func (t *Transit) Close() { t.conn.Close() }

// Wrap implements Seal.
func (t *Transit) Wrap(ctx context.Context, id string, kek []byte) ([]byte, error) {
	text, err := t.ask(ctx, "encrypt", "ciphertext", id, "plaintext", base64.StdEncoding.EncodeToString(kek))
	return []byte(text), err
}

// Unwrap implements Seal.
func (t *Transit) Unwrap(ctx context.Context, id string, wrapped []byte) ([]byte, error) {
	text, err := t.ask(ctx, "decrypt", "plaintext", id, "ciphertext", string(wrapped))
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errNoTransit
	}
	return key, nil
}

var errNoTransit = fmt.Errorf("%w: the answer is not one of a transit engine", backends.ErrUnavailable)

func (t *Transit) ask(ctx context.Context, operation, want, id, attribute, text string) (string, error) {
	answer, err := t.conn.Write(ctx, t.mount+"/"+operation+"/"+url.PathEscape(t.key), map[string]any{
		attribute:         text,
		"associated_data": base64.StdEncoding.EncodeToString(bindKEK(id)),
	})
	if err != nil {
		return "", err
	}
	if answer != nil {
		if got, ok := answer.Data[want].(string); ok {
			return got, nil
		}
	}
	return "", errNoTransit
}
