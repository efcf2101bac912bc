package postgresql

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/keybroker/keybroker/rotation/postgresconn"
)

// iterations is the server's own default (scram_iterations).
const iterations = 4096

// verifier is what the server keeps in place of a password (RFC 5803, and
// https://www.postgresql.org/docs/current/catalog-pg-authid.html). It is made here
// so that the password itself never travels, and is in no log of statements: a
// server takes a text of this form as it is.
func verifier(password string) (string, error) {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	return verifierOf(password, salt)
}

func verifierOf(password string, salt []byte) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, postgresconn.Prepared(password), salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("deriving a SCRAM key: %w", err)
	}
	stored := sha256.Sum256(mac(salted, "Client Key"))
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations,
		base64.StdEncoding.EncodeToString(salt),
		base64.StdEncoding.EncodeToString(stored[:]),
		base64.StdEncoding.EncodeToString(mac(salted, "Server Key"))), nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
