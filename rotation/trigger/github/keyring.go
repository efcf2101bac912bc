package github

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// How often GitHub is asked for its keys, whatever ids messages name.
const (
	keysFresh   = time.Hour        // after that they are asked for again
	keysUsable  = 24 * time.Hour   // so long where GitHub does not answer
	askedAgain  = time.Minute      // for a key that is unknown
	failedAgain = 10 * time.Second // where there was no answer
)

// keyring are the keys that GitHub signs the partner feed with.
type keyring struct {
	at *url.URL

	turn     chan struct{} // held by who reads or changes the rest; who waits can leave
	keys     map[string]*ecdsa.PublicKey
	got      time.Time // when keys came
	asked    time.Time // when they were asked for last
	answered bool      // then
}

func newKeyring(at *url.URL) *keyring { return &keyring{at: at, turn: make(chan struct{}, 1)} }

// key returns the key of that id. ErrDenied: GitHub has none; ErrUnavailable: it cannot be
// asked.
func (k *keyring) key(ctx context.Context, r *Receiver, id string) (*ecdsa.PublicKey, error) {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for GitHub's keys: %w", backends.ErrUnavailable, ctx.Err())
	}
	now := r.now()
	known := k.keys[id]
	if known != nil && now.Sub(k.got) < keysFresh {
		return known, nil
	}
	wait := askedAgain
	if !k.answered {
		wait = failedAgain
	}
	var err error
	if k.asked.IsZero() || now.Sub(k.asked) >= wait {
		err = k.ask(ctx, r)
		known = k.keys[id]
	}
	switch {
	case known != nil && now.Sub(k.got) < keysUsable:
		return known, nil
	case err != nil:
		return nil, err
	case !k.answered:
		return nil, fmt.Errorf("%w: GitHub's keys could not be read just now", backends.ErrUnavailable)
	}
	return nil, fmt.Errorf("%w: the message is signed with a key that is none of GitHub's", backends.ErrDenied)
}

// ask replaces the keys by those that GitHub has now. One that it has no longer is not
// believed any more.
func (k *keyring) ask(ctx context.Context, r *Receiver) error {
	k.asked, k.answered = r.now(), false
	resp, err := r.get(ctx, k.at)
	if err != nil {
		return fmt.Errorf("asking GitHub for its keys: %w", err)
	}
	keys, err := parseKeys(resp.Body)
	if err != nil {
		return err
	}
	k.keys, k.got, k.answered = keys, k.asked, true
	return nil
}

// parseKeys reads an answer of /meta/public_keys/secret_scanning. Keys that are not of
// ECDSA on P-256 are left out: the feed is signed with no others.
func parseKeys(body []byte) (map[string]*ecdsa.PublicKey, error) {
	var answer struct {
		PublicKeys []struct {
			ID  string `json:"key_identifier"`
			Key string `json:"key"` // PEM of SubjectPublicKeyInfo
		} `json:"public_keys"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("%w: GitHub's answer with its keys is no JSON", backends.ErrUnavailable)
	}
	keys := map[string]*ecdsa.PublicKey{}
	for _, one := range answer.PublicKeys {
		if key, err := parseKey(one.Key); err == nil && one.ID != "" {
			keys[one.ID] = key
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: GitHub's answer has no key of ECDSA on P-256", backends.ErrUnavailable)
	}
	return keys, nil
}

var errNotP256 = errors.New("not an ECDSA key on P-256")

func parseKey(text string) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errNotP256
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if ec, ok := key.(*ecdsa.PublicKey); ok && ec.Curve == elliptic.P256() {
		return ec, nil
	}
	return nil, errNotP256
}
