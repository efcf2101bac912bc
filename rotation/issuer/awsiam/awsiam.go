// Package awsiam is the issuer of access keys of AWS IAM users.
//
// IAM gives a user two access keys, active or not. A key is revoked by making it
// inactive, and takes its place until it is deleted, after the soak. Keys carry no
// tag, so what became of a lost answer is told by the list of the user's keys.
//
// What was begun with a key outlives it: sessions of GetSessionToken and of
// GetFederationToken have the user's permissions for up to 36 hours, whatever becomes
// of the key. They are ended by a policy of the user's that denies everything to
// sessions that began before an instant; see EndSessions. A role that was assumed with
// the key has permissions of its own, and is ended at the role.
package awsiam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Issuer makes and turns off access keys.
type Issuer struct {
	traits      issuer.Traits
	endSessions bool
	roleARN     string // that the issuer takes on; empty: none

	conn aws.Config
	iam  *iam.Client
	sts  *sts.Client
	now  func() time.Time

	policies sync.Mutex // held while the policy that ends sessions is read and written
}

var (
	_ issuer.Issuer          = (*Issuer)(nil)
	_ issuer.Lister          = (*Issuer)(nil)
	_ issuer.Remover         = (*Issuer)(nil)
	_ issuer.SessionEnder    = (*Issuer)(nil)
	_ issuer.UseReporter     = (*Issuer)(nil)
	_ issuer.Checker         = (*Issuer)(nil)
	_ issuer.SettingsChecker = (*Issuer)(nil)
)

// Open makes an issuer. It asks nothing of AWS, which may be down, and fails with
// ErrInvalid only. Close it in the end.
func Open(ctx context.Context, cfg Config, logger hclog.Logger) (*Issuer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	conn, err := awsconn.LoadVia(ctx, cfg.Conn, logger, outbound.Dialer(cfg.AllowPrivateNetwork))
	if err != nil {
		return nil, err
	}
	asked := conn
	asked.BaseEndpoint = nil
	if cfg.STSEndpoint != "" {
		asked.BaseEndpoint = &cfg.STSEndpoint
	}
	i := &Issuer{traits: cfg.Traits(), endSessions: cfg.EndSessions, conn: conn, iam: iam.NewFromConfig(conn), sts: sts.NewFromConfig(asked), now: time.Now}
	if cfg.Conn.AssumeRole != nil {
		i.roleARN = cfg.Conn.AssumeRole.RoleARN
	}
	return i, nil
}

// Close closes the connections kept.
func (i *Issuer) Close() { awsconn.CloseIdle(i.conn) }

// Traits implements issuer.Issuer.
func (i *Issuer) Traits() issuer.Traits { return i.traits }

// CheckSettings implements issuer.SettingsChecker.
func (i *Issuer) CheckSettings(settings json.RawMessage) []string {
	return Config{}.CheckSettings(settings)
}

// Issue implements issuer.Issuer. ErrConflict: the user has two keys already, and
// nothing was made.
func (i *Issuer) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	user, err := userIn(req.Subject.Settings)
	if err != nil {
		return issuer.Credential{}, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	made, err := i.iam.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: &user}, mintOnce)
	switch {
	case code(err) == codeLimit:
		return issuer.Credential{}, fmt.Errorf("%w: user %s has %d access keys already, which is all that IAM allows: delete one that nobody needs", backends.ErrConflict, user, maxKeys)
	case code(err) == codeNone:
		return issuer.Credential{}, noUser(user)
	case err != nil && neverSent(err):
		return issuer.Credential{}, fmt.Errorf("creating an access key of user %s: %w (%w)", user, awsconn.Fault(err), issuer.ErrNotSent)
	case err != nil:
		return issuer.Credential{}, fmt.Errorf("creating an access key of user %s: %w", user, awsconn.Fault(err))
	}
	key := made.AccessKey
	if key == nil || aws.ToString(key.AccessKeyId) == "" || aws.ToString(key.SecretAccessKey) == "" {
		return issuer.Credential{}, fmt.Errorf("%w: creating an access key of user %s: AWS answered without a key, which may exist", backends.ErrUnavailable, user)
	}
	return issuer.Credential{
		Value:  backends.NewValue(map[string]string{fieldID: *key.AccessKeyId, fieldSecret: *key.SecretAccessKey}),
		Handle: handleOf(user, *key.AccessKeyId),
	}, nil
}

func handleOf(user, id string) issuer.Handle {
	return issuer.Handle{handleUser: user, handleID: id}
}

func noUser(user string) error {
	return fmt.Errorf("%w: IAM has no user %s: create it, or mend the secret's setting user", backends.ErrInvalid, user)
}

// List implements issuer.Lister. Inactive keys are in it: they can be made active.
func (i *Issuer) List(ctx context.Context, sub issuer.Subject) ([]issuer.Handle, error) {
	user, err := userIn(sub.Settings)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	keys, err := i.keysOf(ctx, user)
	if code(err) == codeNone {
		return nil, noUser(user)
	}
	if err != nil {
		return nil, fmt.Errorf("listing the access keys of user %s: %w", user, awsconn.Fault(err))
	}
	var handles []issuer.Handle
	for _, k := range keys {
		handles = append(handles, handleOf(user, aws.ToString(k.AccessKeyId)))
	}
	return handles, nil
}

func (i *Issuer) keysOf(ctx context.Context, user string) ([]types.AccessKeyMetadata, error) {
	var keys []types.AccessKeyMetadata
	for pages := iam.NewListAccessKeysPaginator(i.iam, &iam.ListAccessKeysInput{UserName: &user}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		keys = append(keys, page.AccessKeyMetadata...)
	}
	return keys, nil
}

// Revoke implements issuer.Issuer. The key is inactive then, and without a soak
// deleted.
func (i *Issuer) Revoke(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	err := i.onKey(ctx, sub, h, func(user, id *string) error {
		_, err := i.iam.UpdateAccessKey(ctx, &iam.UpdateAccessKeyInput{UserName: user, AccessKeyId: id, Status: types.StatusTypeInactive})
		return err
	})
	if err != nil {
		return fmt.Errorf("making access key %s inactive: %w", h[handleID], err)
	}
	if i.traits.Soak > 0 {
		return nil
	}
	return i.Remove(ctx, sub, h)
}

// Remove implements issuer.Remover.
func (i *Issuer) Remove(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	err := i.onKey(ctx, sub, h, func(user, id *string) error {
		_, err := i.iam.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: user, AccessKeyId: id})
		return err
	})
	if err != nil {
		return fmt.Errorf("deleting access key %s: %w", h[handleID], err)
	}
	return nil
}

// accessKeyID is of the parameter AccessKeyId (IAM API reference). Nothing else is the
// id of any key.
var accessKeyID = regexp.MustCompile(`^\w{16,128}$`)

// onKey does something to a key. One that IAM does not have is no error. A key that
// its user does not have may be that of the user under another name: users can be
// renamed, and their keys keep their ids. ErrUnavailable where IAM contradicts itself:
// it is eventually consistent, and one of its servers may not have heard of a fresh key.
func (i *Issuer) onKey(ctx context.Context, sub issuer.Subject, h issuer.Handle, do func(user, id *string) error) error {
	id, user := h[handleID], h[handleUser]
	if id == "" {
		return fmt.Errorf("%w: the handle lacks %s", backends.ErrInvalid, handleID)
	}
	if user == "" {
		user, _ = userIn(sub.Settings)
	}
	if !accessKeyID.MatchString(id) {
		return nil
	}
	if userName.MatchString(user) {
		if err := do(&user, &id); code(err) != codeNone {
			return awsconn.Fault(err)
		}
	}
	owner, err := i.ownerOf(ctx, id)
	if err != nil || owner == "" {
		return err
	}
	if owner != user {
		if err := do(&owner, &id); code(err) != codeNone {
			return awsconn.Fault(err)
		}
	}
	return fmt.Errorf("%w: IAM knows the key as one of user %s, and says that this user has none of the kind: its servers do not agree yet", backends.ErrUnavailable, owner)
}

// ownerOf returns the name of the user whose key id is; empty if there is none. AWS
// says that asking is denied, too, where there is none.
func (i *Issuer) ownerOf(ctx context.Context, id string) (string, error) {
	used, err := i.iam.GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: &id})
	if err == nil {
		return aws.ToString(used.UserName), nil
	}
	if err = awsconn.Fault(err); errors.Is(err, backends.ErrUnavailable) {
		return "", err
	}
	return "", nil
}

// LastUsed implements issuer.UseReporter. IAM knows it with a delay of some minutes,
// and the last use only. A probe of the type aws_sts is a use of the service sts.
func (i *Issuer) LastUsed(ctx context.Context, _ issuer.Subject, h issuer.Handle) (issuer.Use, error) {
	id := h[handleID]
	got, err := i.iam.GetAccessKeyLastUsed(ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: &id})
	if err != nil {
		return issuer.Use{}, fmt.Errorf("asking when access key %s was last used: %w", id, awsconn.Fault(err))
	}
	used := got.AccessKeyLastUsed
	if used == nil || used.LastUsedDate == nil || used.LastUsedDate.IsZero() {
		return issuer.Use{}, nil
	}
	where := aws.ToString(used.ServiceName) + " in " + aws.ToString(used.Region)
	if aws.ToString(used.ServiceName) == "sts" {
		where += ", as which keybroker's own tries count"
	}
	return issuer.Use{At: *used.LastUsedDate, Where: where}, nil
}
