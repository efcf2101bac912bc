package authn

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/keys"
)

// TokenPrefix begins every token of keybroker, for scanners and people.
const TokenPrefix = "kbt"

// touchEvery is how exactly the last use of a token is known.
const touchEvery = time.Minute

// Tokens makes and checks tokens. A token is kept as its HMAC under a pepper
// that is kept sealed, so that the data file alone tests no guess.
type Tokens struct {
	db     *store.DB
	log    *audit.Log
	now    func() time.Time
	logger hclog.Logger
	hash   func(token string) []byte // a closure over the pepper, so that printing Tokens prints none
}

// NewTokens returns the tokens kept in db. The logger is told why a caller could
// not be authenticated, which the caller is not.
func NewTokens(db *store.DB, log *audit.Log, pepper []byte, now func() time.Time, logger hclog.Logger) *Tokens {
	return &Tokens{db: db, log: log, now: now, logger: logger, hash: func(token string) []byte {
		mac := hmac.New(sha256.New, pepper)
		mac.Write([]byte(token))
		return mac.Sum(nil)
	}}
}

// Make makes a token and the record to be stored for it, which has only its
// hash. A ttl of 0 is none. The maker is who asks for it; the zero one is the host.
func (t *Tokens) Make(maker Principal, tenant, name string, policies []string, ttl time.Duration) (store.Token, backends.SecretString) {
	token := keys.Generate(TokenPrefix, keys.MinLength)
	now := t.now()
	rec := store.Token{ID: "tok_" + uuid.Must(uuid.NewV7()).String(), Tenant: tenant, Name: name, Hash: t.hash(token),
		Policies: policies, CreatedAt: now}
	switch {
	case maker.Lineage == "":
		rec.Lineage = rec.ID
	case slices.Contains(maker.Policies, policy.Root):
		rec.Lineage = maker.Lineage + "/" + rec.ID
	default:
		rec.Lineage = maker.Lineage
	}
	if ttl > 0 {
		rec.ExpiresAt = now.Add(ttl)
	}
	return rec, backends.SecretString(token)
}

// errCannotTell is all that somebody whom we do not know is told of our state.
var errCannotTell = fmt.Errorf("authenticating: %w: the broker cannot tell now who calls", backends.ErrUnavailable)

// Authenticate returns who holds token. ErrDenied if nobody (any more), which is
// audited; ErrUnavailable, whose text has no cause, if the store or the audit log
// cannot be used.
func (t *Tokens) Authenticate(ctx context.Context, token string, from netip.Addr) (Principal, error) {
	rec, why, err := t.find(ctx, token)
	if err != nil {
		return Principal{}, t.cannotTell(ctx, err)
	}
	if why != "" {
		err := t.log.Record(rotation.AuditEvent{At: t.now(), Tenant: rec.Tenant, Actor: actor(rec), Address: from.String(),
			Action: "auth.token", Path: "sys/auth", Outcome: "denied", Detail: map[string]string{"why": why}})
		if err != nil {
			return Principal{}, t.cannotTell(ctx, err)
		}
		return Principal{}, fmt.Errorf("authenticating: %w: %s", backends.ErrDenied, why)
	}
	return Principal{ID: rec.ID, Name: rec.Name, Tenant: rec.Tenant, Policies: rec.Policies, Lineage: rec.Lineage, ExpiresAt: rec.ExpiresAt, Address: from}, nil
}

// Valid tells whether the token that p was authenticated by is still accepted.
func (t *Tokens) Valid(ctx context.Context, p Principal) (valid bool, err error) {
	err = t.db.View(ctx, func(tx *store.Tx) error {
		rec, err := tx.Token(ctx, p.ID)
		valid = err == nil && rec.RevokedAt.IsZero() && (rec.ExpiresAt.IsZero() || t.now().Before(rec.ExpiresAt))
		if errors.Is(err, backends.ErrNotFound) {
			return nil
		}
		return err
	})
	return valid, err
}

func (t *Tokens) cannotTell(ctx context.Context, cause error) error {
	if ctx.Err() == nil { // else the caller is gone
		t.logger.Error("a caller cannot be authenticated", "error", cause)
	}
	return errCannotTell
}

func actor(rec store.Token) string {
	if rec.ID == "" {
		return "anonymous"
	}
	return rec.ID
}

// find looks the token up; why says what is wrong with it.
func (t *Tokens) find(ctx context.Context, token string) (rec store.Token, why string, err error) {
	if token == "" {
		return rec, "no token", nil
	}
	if !keys.Valid(token) {
		return rec, "no token of ours", nil
	}
	err = t.db.View(ctx, func(tx *store.Tx) (err error) {
		rec, err = tx.TokenByHash(ctx, t.hash(token))
		return err
	})
	now := t.now()
	switch {
	case errors.Is(err, backends.ErrNotFound):
		return store.Token{}, "unknown token", nil
	case err != nil:
		return rec, "", err
	case !rec.RevokedAt.IsZero():
		return rec, "revoked token", nil
	case !rec.ExpiresAt.IsZero() && !now.Before(rec.ExpiresAt):
		return rec, "expired token", nil
	}
	if now.Sub(rec.LastUsedAt) >= touchEvery {
		err = t.db.Update(ctx, func(tx *store.Tx) error { return tx.TouchToken(ctx, rec.ID, now) })
	}
	return rec, "", err
}
