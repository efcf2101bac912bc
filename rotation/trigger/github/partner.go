package github

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

// The headers of the partner feed
// (https://docs.github.com/en/code-security/secret-scanning/secret-scanning-partnership-program).
const (
	headerKey       = "Github-Public-Key-Identifier"
	headerSignature = "Github-Public-Key-Signature" // base64 of an ASN.1 ECDSA signature of the body's SHA-256
)

// What GitHub is told of a match.
const (
	truePositive  = "true_positive"
	falsePositive = "false_positive"
)

// match is a credential that GitHub has found.
type match struct {
	Token  backends.SecretString `json:"token"`
	Type   string                `json:"type"` // the name that the partner gave to the form of their tokens
	URL    string                `json:"url"`  // may be empty
	Source string                `json:"source"`
}

// verdict is what GitHub is told of a match. It goes by the token's hash: what leaked is not
// sent around again.
type verdict struct {
	TokenHash string `json:"token_hash"`
	TokenType string `json:"token_type"`
	Label     string `json:"label"`
}

// matches reads a message of the feed. Neither time nor an id is signed; one that is sent
// again has the same content.
func (r *Receiver) matches(ctx context.Context, header http.Header, body []byte) ([]inbound.Event, inbound.Reply, error) {
	if err := r.verify(ctx, header, body); err != nil {
		return nil, inbound.Reply{}, err
	}
	var found []match
	if err := inbound.Decode(body, &found); err != nil {
		return nil, inbound.Reply{}, err
	}
	if len(found) > inbound.MaxEvents {
		return nil, inbound.Reply{}, fmt.Errorf("%w: the message has more than %d matches", backends.ErrInvalid, inbound.MaxEvents)
	}
	events, verdicts := make([]inbound.Event, len(found)), make([]verdict, len(found))
	for i, m := range found {
		if m.Token == "" || m.Type == "" {
			return nil, inbound.Reply{}, fmt.Errorf("%w: a match in the message has no token or no type", backends.ErrInvalid)
		}
		sum := sha256.Sum256([]byte(m.Token.Reveal()))
		verdicts[i] = verdict{TokenHash: hex.EncodeToString(sum[:]), TokenType: m.Type}
		events[i] = inbound.Event{Values: []backends.SecretString{m.Token}, URL: m.URL, Source: "GitHub, partner feed", Reason: found[i].reason()}.Clean()
	}
	return events, inbound.Reply{Status: http.StatusOK, Judge: func(known []bool) any {
		for i := range verdicts {
			verdicts[i].Label = falsePositive
			if i < len(known) && known[i] {
				verdicts[i].Label = truePositive
			}
		}
		return verdicts
	}}, nil
}

func (m match) reason() string {
	where := strings.ToLower(strings.ReplaceAll(m.Source, "_", " "))
	if where == "" {
		where = "unknown"
	}
	return fmt.Sprintf("GitHub secret scanning: %s made public (%s)", m.Type, where)
}

// verify checks that GitHub has signed the body.
func (r *Receiver) verify(ctx context.Context, header http.Header, body []byte) error {
	ids, signatures := header.Values(headerKey), header.Values(headerSignature)
	if len(ids) != 1 || len(signatures) != 1 {
		return fmt.Errorf("%w: the message is not signed: it needs the headers %s and %s", backends.ErrDenied, headerKey, headerSignature)
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(signatures[0])
	if err != nil {
		return fmt.Errorf("%w: the header %s is no base64", backends.ErrDenied, headerSignature)
	}
	key, err := r.feed.key(ctx, r, ids[0])
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(body); !ecdsa.VerifyASN1(key, sum[:], signature) {
		return fmt.Errorf("%w: the signature of the message does not match", backends.ErrDenied)
	}
	return nil
}
