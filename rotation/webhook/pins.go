package webhook

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

const pinPrefix = "sha256//"

// Pin is the SHA-256 of a public key (DER of SubjectPublicKeyInfo, RFC 7469, 2.4).
type Pin [sha256.Size]byte

// PinOf returns the pin of a certificate's public key.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// ParsePin reads "sha256//" and standard base64, as curl writes pins; ErrInvalid.
func ParsePin(text string) (Pin, error) {
	encoded, ok := strings.CutPrefix(text, pinPrefix)
	sum, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if !ok || err != nil || len(sum) != len(Pin{}) {
		return Pin{}, fmt.Errorf("%w: %q is no pin: write sha256// and the base64 of the SHA-256 of a public key", backends.ErrInvalid, text)
	}
	return Pin(sum), nil
}

// String writes the pin as ParsePin reads it.
func (p Pin) String() string { return pinPrefix + base64.StdEncoding.EncodeToString(p[:]) }

type pins []Pin

func parsePins(texts []string) (pins, error) {
	list := make(pins, len(texts))
	for i, text := range texts {
		p, err := ParsePin(text)
		if err != nil {
			return nil, err
		}
		list[i] = p
	}
	return list, nil
}

// verify accepts a connection one of whose verified chains has a pinned public key: the
// server's own or that of an authority above it (RFC 7469, 2.6). It is asked at every
// handshake, after the usual verification.
func (p pins) verify(state tls.ConnectionState) error {
	for _, chain := range state.VerifiedChains {
		if slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return slices.Contains(p, PinOf(c)) }) {
			return nil
		}
	}
	return errPin
}

var errPin = errors.New("TLS: none of the pinned public keys is in the certificate's chain")
