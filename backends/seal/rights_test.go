package seal_test

import (
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
	"github.com/keybroker/keybroker/backends/seal"
)

// The rights that docs/backends.md names are enough to wrap and unwrap a key.
func TestDocumentedRightsSuffice(t *testing.T) {
	s := motoserver.SharedGuarded(t)
	key := s.User(t, `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*"}]}`)
	cfg := kmsConfig(s.URL, "eu-central-1", s.KMSKey(t, "eu-central-1"))
	cfg.Conn.AccessKeyID, cfg.Conn.SecretAccessKey = backends.SecretString(key.ID), backends.SecretString(key.Secret)
	k := openKMS(t, cfg)
	kek := seal.NewKEK()
	wrapped, err := kek.WrapBy(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.UnwrapKEK(t.Context(), k, kek.ID(), wrapped); err != nil {
		t.Error(err)
	}
}
