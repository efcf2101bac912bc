package receiver

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/keybroker/keybroker/backends"
)

const (
	headerID        = "webhook-id"
	headerTimestamp = "webhook-timestamp"
	headerSignature = "webhook-signature"

	tolerance = 5 * time.Minute // of a timestamp
	keysKept  = 5 * time.Minute // before the broker is asked whether they are still its
	minSecret = 24              // bytes; the library would take an empty secret
)

var errSignature = refusal{http.StatusUnauthorized, "the signature is not valid"}

// verifier tells whether the broker signed a message, by a refusal if it did not. Another
// error says that it could not be found out.
type verifier interface {
	verify(ctx context.Context, header http.Header, body []byte) error
}

// shared verifies with secrets that the broker has, too (HMAC-SHA256, "v1").
type shared []*standardwebhooks.Webhook

func newShared(secrets backends.SecretString) (shared, error) {
	var all shared
	for line := range strings.FieldsSeq(secrets.Reveal()) {
		encoded, ok := strings.CutPrefix(line, "whsec_")
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(raw) < minSecret {
			return nil, errors.New("the signing secret is not whsec_ and at least 24 bytes in base64")
		}
		webhook, err := standardwebhooks.NewWebhookRaw(raw)
		if err != nil {
			return nil, err
		}
		all = append(all, webhook)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no signing secret, whsec_…")
	}
	return all, nil
}

func (s shared) verify(_ context.Context, header http.Header, body []byte) error {
	for _, webhook := range s {
		if webhook.Verify(body, header) == nil { // looks at the timestamp, too
			return nil
		}
	}
	return errSignature
}

// published verifies with the keys that the broker publishes (ed25519, "v1a").
type published struct {
	broker   *broker
	consumer string
	interval time.Duration

	mu    sync.Mutex
	keys  []ed25519.PublicKey
	asked time.Time
}

func (p *published) verify(ctx context.Context, header http.Header, body []byte) error {
	id, timestamp := header.Get(headerID), header.Get(headerTimestamp)
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || id == "" || strings.Contains(id, ".") || time.Since(time.Unix(seconds, 0)).Abs() > tolerance {
		return errSignature
	}
	var signatures [][]byte
	for text := range strings.FieldsSeq(header.Get(headerSignature)) {
		if encoded, ok := strings.CutPrefix(text, "v1a,"); ok {
			signature, _ := base64.StdEncoding.DecodeString(encoded) // what is none matches no key
			signatures = append(signatures, signature)
		}
	}
	content := append([]byte(id+"."+timestamp+"."), body...)
	return p.match(ctx, content, signatures)
}

// match asks the broker for its keys when it has none, when they are old, and, since it
// may have new ones, when none matches; but then not again for an interval, or anybody
// could make us ask without end.
func (p *published) match(ctx context.Context, content []byte, signatures [][]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(signatures) == 0 {
		return errSignature
	}
	if time.Since(p.asked) < keysKept && p.matches(content, signatures) {
		return nil
	}
	if time.Since(p.asked) < p.interval {
		return errSignature
	}
	if err := p.ask(ctx); err != nil {
		return err
	}
	if !p.matches(content, signatures) {
		return errSignature
	}
	return nil
}

func (p *published) matches(content []byte, signatures [][]byte) bool {
	for _, key := range p.keys {
		for _, signature := range signatures {
			if ed25519.Verify(key, content, signature) {
				return true
			}
		}
	}
	return false
}

func (p *published) ask(ctx context.Context) error {
	var set jose.JSONWebKeySet
	if err := p.broker.call(ctx, http.MethodGet, "/.well-known/keybroker/webhook-keys/"+url.PathEscape(p.consumer), nil, &set); err != nil {
		return err
	}
	p.keys, p.asked = nil, time.Now()
	for _, key := range set.Keys {
		if public, ok := key.Key.(ed25519.PublicKey); ok {
			p.keys = append(p.keys, public)
		}
	}
	return nil
}
