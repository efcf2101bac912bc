package receiver

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	askPause  = 3 * time.Second // after the broker could not be asked: shorter than until it tries again
	minSecret = 24              // bytes; the library would take an empty secret

	maxSignatures = 8 // that are looked at: the broker sends one for each of its keys
)

var (
	errSignature = refusal{http.StatusUnauthorized, "the signature is not valid"}
	errAsked     = errors.New("the broker's public keys could not be fetched a moment ago")
)

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
	path     string
	interval time.Duration

	newest atomic.Pointer[keySet]

	asking sync.Mutex // held while the broker is asked: who knows a key of the message does not wait
	failed time.Time  // when it last could not be asked; guarded by asking
}

// keySet is what the broker has answered.
type keySet struct {
	keys  []ed25519.PublicKey
	asked time.Time
}

func newPublished(b *broker, consumer string, interval time.Duration) *published {
	p := &published{broker: b, path: "/.well-known/keybroker/webhook-keys/" + url.PathEscape(consumer), interval: min(interval, keysKept)}
	p.newest.Store(&keySet{})
	return p
}

func (p *published) verify(ctx context.Context, header http.Header, body []byte) error {
	id, timestamp := header.Get(headerID), header.Get(headerTimestamp)
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || id == "" || strings.Contains(id, ".") || time.Since(time.Unix(seconds, 0)).Abs() > tolerance {
		return errSignature
	}
	signatures := signaturesOf(header)
	if len(signatures) == 0 {
		return errSignature
	}
	return p.match(ctx, append([]byte(id+"."+timestamp+"."), body...), signatures)
}

// signaturesOf returns the first few that may be some: each is tried with each key, and
// whoever reaches us may send as many as they like.
func signaturesOf(header http.Header) (signatures [][]byte) {
	for text := range strings.FieldsSeq(header.Get(headerSignature)) {
		encoded, ok := strings.CutPrefix(text, "v1a,")
		signature, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(signature) != ed25519.SignatureSize {
			continue
		}
		if signatures = append(signatures, signature); len(signatures) == maxSignatures {
			break
		}
	}
	return signatures
}

// match asks the broker for its keys when it has none, when they are old, and, since it
// may have new ones, when none matches.
func (p *published) match(ctx context.Context, content []byte, signatures [][]byte) error {
	known := p.newest.Load()
	if time.Since(known.asked) < keysKept && known.matches(content, signatures) {
		return nil
	}
	newest, err := p.refreshed(ctx)
	if err != nil {
		return err
	}
	if newest == known || !newest.matches(content, signatures) {
		return errSignature
	}
	return nil
}

// refreshed returns the broker's keys of at most an interval ago: it is not asked again
// before, nor at once when it could not be, or anybody could make us ask without end.
func (p *published) refreshed(ctx context.Context) (*keySet, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	if newest := p.newest.Load(); time.Since(newest.asked) < p.interval {
		return newest, nil
	}
	if time.Since(p.failed) < askPause {
		return nil, errAsked
	}
	newest, err := p.ask(context.WithoutCancel(ctx)) // others wait for it, too
	if err != nil {
		p.failed = time.Now()
		return nil, fmt.Errorf("fetching its public keys: %w", err)
	}
	p.newest.Store(newest)
	return newest, nil
}

func (p *published) ask(ctx context.Context) (*keySet, error) {
	var set jose.JSONWebKeySet
	if err := p.broker.call(ctx, http.MethodGet, p.path, nil, &set); err != nil {
		return nil, err
	}
	newest := &keySet{asked: time.Now()}
	for _, key := range set.Keys {
		if public, ok := key.Key.(ed25519.PublicKey); ok {
			newest.keys = append(newest.keys, public)
		}
	}
	return newest, nil
}

func (s *keySet) matches(content []byte, signatures [][]byte) bool {
	for _, key := range s.keys {
		for _, signature := range signatures {
			if ed25519.Verify(key, content, signature) {
				return true
			}
		}
	}
	return false
}
