package daemon

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

const (
	// signingLook is how old at most is what a node knows of the keys that others made.
	signingLook = time.Second
	// Keys whose consumer no node has in its configuration any more are kept, for the
	// case that it comes back; that it is there is recorded each signingWant.
	keepSigningKeys = 30 * 24 * time.Hour
	signingWant     = time.Hour
	// maxSigning is how many keys of a consumer sign at once: each makes a header longer,
	// of which receivers take no more than some.
	maxSigning = 5
	// switchOverlap is for how long a consumer's keys of another signature sign on.
	switchOverlap = 24 * time.Hour
)

// signing has the keys that messages to consumers are signed with, where the broker owns
// them. The rows are the truth: nothing is signed with a key that is not committed, and
// one that another node makes signs here, beside the one of before, a second later.
type signing struct {
	db     *store.DB
	seals  *sealing
	now    func() time.Time
	logger hclog.Logger
	step   func(string) error // for tests: told of each step of a rotation; nil: nobody is

	consumers atomic.Pointer[[]*config.Consumer] // in force, whose keys the broker owns

	looking sync.Mutex // one look at a time, so that none puts older keys in the place of newer
	mu      sync.RWMutex
	sets    map[store.Consumer]*keySet

	// Of run alone.
	wantedAt time.Time // when it was recorded last which consumers there are
	scrub    bool      // removed keys are still in the log of the database
	failing  string    // what the last round ended with: it is told once
}

func newSigning(db *store.DB, seals *sealing, now func() time.Time, logger hclog.Logger) *signing {
	s := &signing{db: db, seals: seals, now: now, logger: logger}
	s.use(&config.Config{})
	return s
}

// keySet are the keys of one consumer, the newest first, as they are in the store.
type keySet struct {
	rows []store.SigningKey

	mu     sync.Mutex
	signer *webhook.Signer // of those that were not over when it was made
	until  time.Time       // the first of these is over then; zero: none will be
}

// brokerSigns tells whether the broker owns the keys of a consumer.
func brokerSigns(c *config.Consumer) bool { return c.SigningSecret == "" && c.SigningSecretFile == "" }

// use says which consumers there are from now on.
func (s *signing) use(cfg *config.Config) {
	owned := []*config.Consumer{}
	for _, c := range cfg.Consumers {
		if brokerSigns(c) {
			owned = append(owned, c)
		}
	}
	s.consumers.Store(&owned)
}

// keep sees to it in tx that every consumer whose keys the broker owns has one of its
// algorithm, for UpdateLatest: of two nodes that make one, the second finds the first's.
// A key of another algorithm signs on beside it for switchOverlap: nobody has the new one yet.
func (s *signing) keep(ctx context.Context, tx *store.Tx, consumers []*config.Consumer) error {
	rows, err := tx.SigningKeys(ctx)
	if err != nil {
		return err
	}
	newest := map[store.Consumer]store.SigningKey{}
	for _, k := range rows {
		if k.Until.IsZero() {
			newest[store.Consumer{Tenant: k.Tenant, Name: k.Consumer}] = k
		}
	}
	wanted := []store.Consumer{}
	for _, c := range consumers {
		if !brokerSigns(c) {
			continue
		}
		of := store.Consumer{Tenant: c.Tenant, Name: c.Name}
		wanted = append(wanted, of)
		if have, ok := newest[of]; ok && have.Algorithm == string(c.Signature) {
			continue
		}
		key, _, err := s.make(ctx, of, c.Signature)
		if err != nil {
			return err
		}
		if _, err := s.add(ctx, tx, key, switchOverlap); err != nil {
			return err
		}
		if err := tx.AddAudit(ctx, signingEvent("consumer.signing_key", key)); err != nil {
			return err
		}
	}
	return tx.WantSigningKeys(ctx, wanted, s.now())
}

// make makes a key, and returns what signs beside it, as webhook.NewSigner takes it.
func (s *signing) make(ctx context.Context, of store.Consumer, algorithm webhook.Algorithm) (store.SigningKey, backends.SecretString, error) {
	key := store.SigningKey{ID: "sgk_" + uuid.Must(uuid.NewV7()).String(), Tenant: of.Tenant, Consumer: of.Name, Algorithm: string(algorithm), CreatedAt: s.now()}
	var secret backends.SecretString
	switch algorithm {
	case webhook.Ed25519:
		secret, key.Public = webhook.GenerateKeyPair()
	case webhook.HMAC:
		secret = webhook.GenerateSecret()
	default:
		return key, "", fmt.Errorf("%w: there is no signature %q", backends.ErrInvalid, string(algorithm))
	}
	plaintext := []byte(secret.Reveal())
	defer clear(plaintext)
	var err error
	if key.Sealed, err = s.seals.ring.Seal(ctx, plaintext, key.AssociatedData()); err != nil {
		return key, "", fmt.Errorf("sealing a signing key of consumer %s: %w", of.Name, err)
	}
	return key, secret, nil
}

// add makes a key the newest in tx, beside which those of before sign for the overlap. It
// returns all that sign then.
func (s *signing) add(ctx context.Context, tx *store.Tx, key store.SigningKey, overlap time.Duration) ([]store.SigningKey, error) {
	if err := tx.EndSigningKeys(ctx, key.Tenant, key.Consumer, key.CreatedAt.Add(overlap)); err != nil {
		return nil, err
	}
	if err := tx.AddSigningKey(ctx, key); err != nil {
		return nil, err
	}
	rows, err := tx.SigningKeys(ctx)
	var set keySet
	for _, k := range rows {
		if k.Tenant == key.Tenant && k.Consumer == key.Consumer {
			set.rows = append(set.rows, k)
		}
	}
	return set.at(key.CreatedAt), err
}

func signingEvent(action string, k store.SigningKey) rotation.AuditEvent {
	return rotation.AuditEvent{At: now(), Actor: "keybroker", Tenant: k.Tenant, Action: action, Path: "sys/consumers/" + k.Consumer, Outcome: "ok",
		Detail: map[string]string{"key": k.ID, "algorithm": k.Algorithm}}
}

// ready makes sure that what is sealed now is kept, where keep would have to seal a key.
func (s *signing) ready(ctx context.Context, consumers []*config.Consumer) error {
	for _, c := range consumers {
		set := s.set(store.Consumer{Tenant: c.Tenant, Name: c.Name})
		if brokerSigns(c) && (set == nil || set.rows[0].Algorithm != string(c.Signature)) {
			return s.seals.Ready(ctx)
		}
	}
	return nil
}

// commit has keep done for consumers, and looks at what came of it.
func (s *signing) commit(ctx context.Context, consumers []*config.Consumer) error {
	if err := s.look(ctx); err != nil {
		return err
	}
	if err := s.ready(ctx, consumers); err != nil {
		return err
	}
	if err := s.db.UpdateLatest(ctx, func(tx *store.Tx) error { return s.keep(ctx, tx, consumers) }); err != nil {
		return fmt.Errorf("keeping the signing keys of consumers: %w", err)
	}
	return s.look(ctx)
}

// rotate makes another key for a consumer of the configuration, and shows it if it is
// one that the consumer has to be given.
func (s *signing) rotate(ctx context.Context, c *config.Consumer, overlap time.Duration) (client.SigningRotation, error) {
	if err := s.seals.Ready(ctx); err != nil {
		return client.SigningRotation{}, err
	}
	key, secret, err := s.make(ctx, store.Consumer{Tenant: c.Tenant, Name: c.Name}, c.Signature)
	if err == nil {
		err = s.at("made")
	}
	if err != nil {
		return client.SigningRotation{}, err
	}
	var rows []store.SigningKey
	err = s.db.UpdateLatest(ctx, func(tx *store.Tx) (err error) {
		if rows, err = s.add(ctx, tx, key, overlap); err == nil && len(rows) > maxSigning {
			err = tooMany(rows)
		}
		return err
	})
	if err == nil {
		err = s.at("stored")
	}
	if err != nil {
		return client.SigningRotation{}, fmt.Errorf("rotating the signing key of consumer %s: %w", c.Name, err)
	}
	if err := s.look(ctx); err != nil {
		s.logger.Warn("a new signing key is not in use on this node yet", "consumer", c.Name, "error", err)
	}
	out := client.SigningRotation{Consumer: c.Name, Keys: shownKeys(rows)}
	if key.Public == "" {
		out.Secret = client.SecretText(secret.Reveal())
	}
	return out, nil
}

// tooMany says until when no key can be added to those that sign.
func tooMany(rows []store.SigningKey) error {
	first := slices.MinFunc(rows[1:], func(a, b store.SigningKey) int { return a.Until.Compare(b.Until) }) // the newest has no end
	return fmt.Errorf("%w: %d keys sign already, more make messages that receivers refuse: wait until %s, when the first of them ends, or drop them all with an overlap of 0s",
		backends.ErrConflict, len(rows)-1, first.Until.UTC().Format(time.RFC3339))
}

// at passes a step of a rotation.
func (s *signing) at(step string) error {
	if s.step == nil {
		return nil
	}
	return s.step(step)
}

// signer returns what signs for a consumer at this moment.
func (s *signing) signer(ctx context.Context, of store.Consumer) (*webhook.Signer, error) {
	_, signer, err := s.opened(ctx, of)
	return signer, err
}

// opened are the keys that sign for a consumer at this moment, the newest first, and what
// signs with them. A public key is told to nobody that does not belong to what opens.
func (s *signing) opened(ctx context.Context, of store.Consumer) ([]store.SigningKey, *webhook.Signer, error) {
	set := s.set(of)
	if set == nil {
		return nil, nil, fmt.Errorf("%w: consumer %s has no signing key yet", backends.ErrUnavailable, of.Name)
	}
	set.mu.Lock()
	defer set.mu.Unlock()
	now := s.now()
	if set.signer == nil || !set.until.IsZero() && !now.Before(set.until) {
		if err := s.open(ctx, set, now); err != nil {
			return nil, nil, err
		}
	}
	return set.at(now), set.signer, nil
}

// open makes the signer of a set of keys, under its mu. All of them must open: a receiver
// may know any one of them alone.
func (s *signing) open(ctx context.Context, set *keySet, now time.Time) error {
	var secrets []backends.SecretString
	set.signer, set.until = nil, time.Time{}
	for _, k := range set.at(now) {
		plaintext, err := s.seals.ring.Open(ctx, k.Sealed, k.AssociatedData())
		if err != nil {
			return fmt.Errorf("opening the signing key %s of consumer %s: %w", k.ID, k.Consumer, err)
		}
		secrets = append(secrets, backends.SecretString(plaintext))
		clear(plaintext)
		if !k.Until.IsZero() && (set.until.IsZero() || k.Until.Before(set.until)) {
			set.until = k.Until
		}
	}
	var err error
	set.signer, err = webhook.NewSigner(secrets...)
	return err
}

func (s *signing) set(of store.Consumer) *keySet {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sets[of]
}

// at are the keys that sign at a time.
func (k *keySet) at(now time.Time) (sign []store.SigningKey) {
	for _, row := range k.rows {
		if row.Until.IsZero() || now.Before(row.Until) {
			sign = append(sign, row)
		}
	}
	return sign
}

// shownKeys are keys as people are shown them.
func shownKeys(rows []store.SigningKey) []client.SigningKey {
	out := []client.SigningKey{}
	for _, k := range rows {
		out = append(out, client.SigningKey{ID: k.ID, Algorithm: k.Algorithm, Public: k.Public, CreatedAt: k.CreatedAt, Until: k.Until})
	}
	return out
}

// look reads the keys. What has not changed goes on as it is.
func (s *signing) look(ctx context.Context) error {
	s.looking.Lock()
	defer s.looking.Unlock()
	var rows []store.SigningKey
	err := s.db.ViewOne(ctx, func(tx *store.Tx) (err error) {
		rows, err = tx.SigningKeys(ctx)
		return err
	})
	if err != nil {
		return err
	}
	fresh := map[store.Consumer]*keySet{}
	for _, k := range rows {
		of := store.Consumer{Tenant: k.Tenant, Name: k.Consumer}
		if fresh[of] == nil {
			fresh[of] = &keySet{}
		}
		fresh[of].rows = append(fresh[of].rows, k)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for of, set := range fresh {
		if had := s.sets[of]; had != nil && reflect.DeepEqual(had.rows, set.rows) {
			fresh[of] = had
		}
	}
	s.sets = fresh
	return nil
}

// run looks regularly at what other nodes have made, and removes what is over, until ctx
// ends.
func (s *signing) run(ctx context.Context) {
	t := time.NewTicker(signingLook)
	defer t.Stop()
	for {
		why := ""
		if err := s.lookAfter(ctx); err != nil && ctx.Err() == nil {
			why = err.Error()
		}
		if why != "" && why != s.failing {
			s.logger.Warn("looking after the signing keys of consumers failed; it is tried again", "error", why)
		}
		s.failing = why
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (s *signing) lookAfter(ctx context.Context) error {
	if err := s.look(ctx); err != nil {
		return err
	}
	if lacking := s.lacking(); len(lacking) > 0 { // the database was put back to a time before
		if err := s.commit(ctx, lacking); err != nil {
			return err
		}
	}
	if s.over() || s.now().Sub(s.wantedAt) >= signingWant {
		if err := s.prune(ctx); err != nil {
			return err
		}
	}
	if s.scrub {
		if err := s.db.Checkpoint(ctx); !errors.Is(err, backends.ErrUnavailable) { // else somebody reads: at the next look
			s.scrub = false
			return err
		}
	}
	return nil
}

// lacking are the consumers in force that have no key.
func (s *signing) lacking() (out []*config.Consumer) {
	for _, c := range *s.consumers.Load() {
		if s.set(store.Consumer{Tenant: c.Tenant, Name: c.Name}) == nil {
			out = append(out, c)
		}
	}
	return out
}

// over tells whether there is a key that does not sign any more.
func (s *signing) over() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	now := s.now()
	for _, set := range s.sets {
		if len(set.at(now)) < len(set.rows) {
			return true
		}
	}
	return false
}

// prune records which consumers there are, and removes the keys that are over and those
// of consumers that there have not been for long.
func (s *signing) prune(ctx context.Context) error {
	at := s.now()
	wanted := []store.Consumer{}
	for _, c := range *s.consumers.Load() {
		wanted = append(wanted, store.Consumer{Tenant: c.Tenant, Name: c.Name})
	}
	var removed []store.SigningKey
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		if err := tx.WantSigningKeys(ctx, wanted, at); err != nil {
			return err
		}
		var err error
		if removed, err = tx.PruneSigningKeys(ctx, at, at.Add(-keepSigningKeys)); err != nil {
			return err
		}
		for _, k := range removed {
			if err := tx.AddAudit(ctx, signingEvent("consumer.signing_key_removed", k)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.wantedAt = at
	if len(removed) == 0 {
		return nil
	}
	s.scrub = true
	return s.look(ctx)
}
