package webhook

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// The headers of Standard Webhooks.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp" // unix seconds of the attempt
	HeaderSignature = "webhook-signature" // "v1,<base64>" or "v1a,<base64>", several separated by spaces
)

// Tolerance is how far a timestamp may be from the receiver's clock.
const Tolerance = 5 * time.Minute

// How secrets are written: the prefix, then standard base64.
const (
	symmetricPrefix = "whsec_" // 24 to 64 random bytes
	privatePrefix   = "whsk_"  // ed25519 private key: seed and public key, or the seed alone
	publicPrefix    = "whpk_"  // ed25519 public key
)

const (
	minSecret = 24
	maxSecret = 64
	newSecret = 32
)

// Algorithm is how deliveries are signed.
type Algorithm string

// The algorithms.
const (
	Ed25519 Algorithm = "ed25519" // signature v1a: consumers hold a public key
	HMAC    Algorithm = "hmac"    // signature v1: consumers hold the secret itself
)

// AlgorithmOf tells which algorithm a secret is for: HMAC for "whsec_…", Ed25519 for
// "whsk_…". ErrInvalid if nothing can be signed with it, as NewSigner.
func AlgorithmOf(secret backends.SecretString) (Algorithm, error) {
	s, err := NewSigner(secret)
	switch {
	case err != nil:
		return "", err
	case s.keys[0].hmac != nil:
		return HMAC, nil
	}
	return Ed25519, nil
}

// Signer signs deliveries with every secret that it was given: two of them while
// a consumer's signing secret is being replaced.
type Signer struct {
	keys []key
}

// key is one signing key: either hmac is set, or public with or without private.
type key struct {
	hmac    []byte
	private ed25519.PrivateKey // nil where only whpk_ was given
	public  ed25519.PublicKey
}

// NewSigner takes secrets written as "whsec_…" (HMAC-SHA256, signature v1) or
// "whsk_…" (ed25519, v1a). The error is ErrInvalid and shows nothing of them.
func NewSigner(secrets ...backends.SecretString) (*Signer, error) {
	keys, err := parseKeys(secrets)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.hmac == nil && k.private == nil {
			return nil, fmt.Errorf("%w: a public key (whpk_) cannot sign: give the private one (whsk_)", backends.ErrInvalid)
		}
	}
	return &Signer{keys: keys}, nil
}

// PublicKeys are those that verify the v1a signatures, in the order of the secrets;
// none for secrets that are all symmetric.
func (s *Signer) PublicKeys() []ed25519.PublicKey {
	var list []ed25519.PublicKey
	for _, k := range s.keys {
		if k.public != nil {
			list = append(list, k.public)
		}
	}
	return list
}

// Format gives a fixed text: the keys are never printed.
func (s Signer) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "(redacted)") }

// Sign returns the three headers of an attempt made at the given time. The id
// must contain no "." (Send refuses it): a dot separates what is signed.
func (s *Signer) Sign(id string, at time.Time, body []byte) http.Header {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	content := signedContent(id, timestamp, body)
	signatures := make([]string, len(s.keys))
	for i, k := range s.keys {
		signatures[i] = k.sign(content)
	}
	h := http.Header{}
	h.Set(HeaderID, id)
	h.Set(HeaderTimestamp, timestamp)
	h.Set(HeaderSignature, strings.Join(signatures, " "))
	return h
}

// Verify checks that one of the signatures in header was made with one of the
// secrets ("whsec_…", "whpk_…" or "whsk_…") and that its timestamp is within the
// tolerance of now. ErrDenied if not, ErrInvalid for secrets that are none.
// Whoever receives must also remember ids: a captured message stays valid for the
// tolerance.
func Verify(secrets []backends.SecretString, header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	keys, err := parseKeys(secrets)
	if err != nil {
		return err
	}
	id, timestamp, signatures := header.Get(HeaderID), header.Get(HeaderTimestamp), header.Get(HeaderSignature)
	if id == "" || timestamp == "" || signatures == "" {
		return fmt.Errorf("%w: the message is not signed: %s, %s or %s is missing", backends.ErrDenied, HeaderID, HeaderTimestamp, HeaderSignature)
	}
	if strings.Contains(id, ".") {
		return fmt.Errorf("%w: the message's id contains a dot", backends.ErrDenied)
	}
	if err := checkTimestamp(timestamp, now, tolerance); err != nil {
		return err
	}
	content := signedContent(id, timestamp, body)
	for signature := range strings.FieldsSeq(signatures) {
		for _, k := range keys {
			if k.verify(content, signature) {
				return nil
			}
		}
	}
	return fmt.Errorf("%w: no signature of the message matches", backends.ErrDenied)
}

// GenerateSecret makes a new symmetric secret, "whsec_…".
func GenerateSecret() backends.SecretString {
	b := make([]byte, newSecret)
	_, _ = rand.Read(b) // never fails
	return backends.SecretString(symmetricPrefix + base64.StdEncoding.EncodeToString(b))
}

// GenerateKeyPair makes a new pair for v1a: "whsk_…" to sign with, and "whpk_…",
// which is not secret, for the receiver.
func GenerateKeyPair() (private backends.SecretString, public string) {
	pub, priv, _ := ed25519.GenerateKey(nil) // crypto/rand never fails
	return backends.SecretString(privatePrefix + base64.StdEncoding.EncodeToString(priv)),
		publicPrefix + base64.StdEncoding.EncodeToString(pub)
}

func signedContent(id, timestamp string, body []byte) []byte {
	content := make([]byte, 0, len(id)+len(timestamp)+len(body)+2)
	content = append(content, id...)
	content = append(content, '.')
	content = append(content, timestamp...)
	content = append(content, '.')
	return append(content, body...)
}

func checkTimestamp(text string, now time.Time, tolerance time.Duration) error {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: the message's timestamp is no number", backends.ErrDenied)
	}
	switch age := now.Sub(time.Unix(seconds, 0)); {
	case age > tolerance:
		return fmt.Errorf("%w: the message is older than %s", backends.ErrDenied, tolerance)
	case age < -tolerance:
		return fmt.Errorf("%w: the message's timestamp is more than %s ahead", backends.ErrDenied, tolerance)
	}
	return nil
}

func (k key) sign(content []byte) string {
	if k.hmac != nil {
		h := hmac.New(sha256.New, k.hmac)
		h.Write(content)
		return "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
	}
	return "v1a," + base64.StdEncoding.EncodeToString(ed25519.Sign(k.private, content))
}

func (k key) verify(content []byte, signature string) bool {
	if k.hmac != nil {
		return hmac.Equal([]byte(signature), []byte(k.sign(content)))
	}
	encoded, ok := strings.CutPrefix(signature, "v1a,")
	if !ok {
		return false
	}
	given, err := base64.StdEncoding.Strict().DecodeString(encoded)
	return err == nil && ed25519.Verify(k.public, content, given)
}

func parseKeys(secrets []backends.SecretString) ([]key, error) {
	if len(secrets) == 0 {
		return nil, fmt.Errorf("%w: no signing secret is given", backends.ErrInvalid)
	}
	keys := make([]key, len(secrets))
	for i, s := range secrets {
		k, err := parseKey(s)
		if err != nil {
			return nil, err
		}
		keys[i] = k
	}
	return keys, nil
}

func parseKey(secret backends.SecretString) (key, error) {
	text := strings.TrimSpace(secret.Reveal()) // files end in a newline
	prefix, encoded, _ := strings.Cut(text, "_")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		raw = nil // refused below; the error would quote the input
	}
	switch prefix + "_" {
	case symmetricPrefix:
		if len(raw) < minSecret || len(raw) > maxSecret {
			return key{}, fmt.Errorf("%w: a whsec_ signing secret is %d to %d random bytes in standard base64", backends.ErrInvalid, minSecret, maxSecret)
		}
		return key{hmac: raw}, nil
	case privatePrefix:
		return parsePrivate(raw)
	case publicPrefix:
		if len(raw) != ed25519.PublicKeySize {
			return key{}, fmt.Errorf("%w: a whpk_ key is %d bytes in standard base64", backends.ErrInvalid, ed25519.PublicKeySize)
		}
		return key{public: raw}, nil
	}
	return key{}, fmt.Errorf("%w: a signing secret begins with whsec_ or whsk_, followed by standard base64", backends.ErrInvalid)
}

func parsePrivate(raw []byte) (key, error) {
	if len(raw) != ed25519.SeedSize && len(raw) != ed25519.PrivateKeySize {
		return key{}, fmt.Errorf("%w: a whsk_ key is %d bytes in standard base64, or its seed of %d", backends.ErrInvalid, ed25519.PrivateKeySize, ed25519.SeedSize)
	}
	private := ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
	if len(raw) == ed25519.PrivateKeySize && !private.Equal(ed25519.PrivateKey(raw)) {
		return key{}, fmt.Errorf("%w: the two halves of a whsk_ key do not belong together", backends.ErrInvalid)
	}
	return key{private: private, public: private.Public().(ed25519.PublicKey)}, nil
}
