package inbound

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// HeaderHub is where GitHub, and many who do as GitHub does, sign: "sha256=<hex>", the
// HMAC-SHA256 of the body with the secret's bytes
// (https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries).
const HeaderHub = "X-Hub-Signature-256"

const hubPrefix = "sha256="

// minSecret is the shortest secret and token, in bytes.
const minSecret = 16

// Lines are the secrets that a setting gives: one a line, so that a new one can stand
// beside the old one while the senders change over.
func Lines(s backends.SecretString) []backends.SecretString {
	var all []backends.SecretString
	for line := range strings.Lines(s.Reveal()) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, backends.SecretString(line))
		}
	}
	return all
}

// CheckSecrets is ErrInvalid where one of the lines of a setting is short enough to be
// guessed. The error names the setting and shows nothing of it.
func CheckSecrets(name string, s backends.SecretString) error {
	lines := Lines(s)
	if s != "" && len(lines) == 0 {
		return fmt.Errorf("%w: %s is empty", backends.ErrInvalid, name)
	}
	for i, one := range lines {
		if len(one) < minSecret {
			return fmt.Errorf("%w: %s is too short in line %d: write %d characters or more, by chance", backends.ErrInvalid, name, i+1, minSecret)
		}
	}
	return nil
}

// VerifyHub checks that one of the secrets has signed the body as HeaderHub says, and
// returns a text that is the same for the same body alone: no message that was captured
// can be sent as another one. Nothing else of the message is signed, headers and the time
// included. ErrDenied if none has.
func VerifyHub(secrets []backends.SecretString, header http.Header, body []byte) (id string, err error) {
	given := header.Values(HeaderHub)
	if len(given) != 1 {
		return "", fmt.Errorf("%w: the message is not signed: it needs one header %s", backends.ErrDenied, HeaderHub)
	}
	text, ok := strings.CutPrefix(given[0], hubPrefix)
	sum, err := hex.DecodeString(text)
	if !ok || err != nil || len(sum) != sha256.Size {
		return "", fmt.Errorf("%w: the header %s is not sha256= and 64 hexadecimal digits", backends.ErrDenied, HeaderHub)
	}
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret.Reveal()))
		mac.Write(body)
		if own := mac.Sum(nil); hmac.Equal(own, sum) {
			return hex.EncodeToString(own[:16]), nil // half of it signs nothing
		}
	}
	return "", fmt.Errorf("%w: the signature of the message does not match", backends.ErrDenied)
}

// VerifyBearer checks that the message has one of the tokens (RFC 6750, section 2.1).
// ErrDenied if not.
func VerifyBearer(tokens []backends.SecretString, header http.Header) error {
	given := header.Values("Authorization")
	if len(given) != 1 {
		return fmt.Errorf("%w: the message needs one header Authorization: Bearer …", backends.ErrDenied)
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return fmt.Errorf("%w: the message needs one header Authorization: Bearer …", backends.ErrDenied)
	}
	// Sums are of one length, so that nothing is told of that of a token.
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	good := 0
	for _, known := range tokens {
		own := sha256.Sum256([]byte(known.Reveal()))
		good |= subtle.ConstantTimeCompare(own[:], sum[:])
	}
	if good == 0 {
		return fmt.Errorf("%w: the token of the message is not the trigger's", backends.ErrDenied)
	}
	return nil
}
