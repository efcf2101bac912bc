package seal

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
)

// TypeKMS is the type of seals that are a key of AWS KMS.
const TypeKMS = "awskms"

// KMSConfig is the body of a seal "awskms" block. The key is a symmetric one; the
// login needs kms:Encrypt and kms:Decrypt on it.
type KMSConfig struct {
	KeyID string `hcl:"kms_key_id"` // id, ARN or "alias/…"

	Conn awsconn.Config `hcl:",remain"`
}

// Validate reports every mistake in c, joined, each an ErrInvalid that begins with
// the attribute's name.
func (c KMSConfig) Validate() error {
	var mistake error
	if c.KeyID == "" {
		mistake = fmt.Errorf("%w: kms_key_id is empty: write the key's id, its ARN or alias/NAME", backends.ErrInvalid)
	}
	return errors.Join(mistake, c.Conn.Validate())
}

// KMS is a seal that is a key of AWS KMS
// (https://docs.aws.amazon.com/kms/latest/APIReference/API_Encrypt.html). What it
// wraps is bound to the KEK's id by the encryption context, which CloudTrail shows.
// Only the configured key is ever asked to decrypt, so that nobody who can write to
// the database can have a key of their own taken for ours.
type KMS struct {
	id     string
	key    string
	client *kms.Client
	login  aws.Config
}

var _ Seal = (*KMS)(nil)

// OpenKMS prepares the seal without asking KMS. ErrInvalid if the configuration
// cannot be used.
func OpenKMS(ctx context.Context, cfg KMSConfig, logger hclog.Logger) (*KMS, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	login, err := awsconn.Load(ctx, cfg.Conn, logger)
	if err != nil {
		return nil, err
	}
	return &KMS{id: TypeKMS + ":" + login.Region + ":" + cfg.KeyID, key: cfg.KeyID, client: kms.NewFromConfig(login), login: login}, nil
}

// ID implements Seal.
func (k *KMS) ID() string { return k.id }

// Close closes the connections that are idle.
func (k *KMS) Close() { awsconn.CloseIdle(k.login) }

// Wrap implements Seal.
func (k *KMS) Wrap(ctx context.Context, id string, kek []byte) ([]byte, error) {
	out, err := k.client.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String(k.key), Plaintext: kek, EncryptionContext: encryptionContext(id)})
	if err != nil {
		return nil, awsconn.Fault(err)
	}
	return out.CiphertextBlob, nil
}

// Unwrap implements Seal.
func (k *KMS) Unwrap(ctx context.Context, id string, wrapped []byte) ([]byte, error) {
	out, err := k.client.Decrypt(ctx, &kms.DecryptInput{KeyId: aws.String(k.key), CiphertextBlob: wrapped, EncryptionContext: encryptionContext(id)})
	if err != nil {
		return nil, awsconn.Fault(err)
	}
	return out.Plaintext, nil
}

func encryptionContext(id string) map[string]string {
	return map[string]string{"keybroker:kek": id}
}
