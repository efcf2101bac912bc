package daemon

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
)

// sealTimeout is how long a seal may take for one key.
const sealTimeout = 10 * time.Second

// sealTimes are how often what is looked after.
type sealTimes struct {
	look  time.Duration // for keys that others have made, and for values that are not sealed by the newest
	check time.Duration // that each seal opens the newest key, so that one that cannot is known before it is needed
	retry time.Duration // a seal that could not be used
	// grace is how long a key is kept at least after a newer one was made, so that
	// every node has learnt of that and nothing is on its way to the store which the
	// old one seals. (If something were all the same, the store would refuse it: the
	// old key's row is what the value refers to.)
	grace time.Duration
}

var usualSealTimes = sealTimes{look: 10 * time.Second, check: 10 * time.Minute, retry: time.Minute, grace: 5 * time.Minute}

// sealing keeps the key-encryption keys: in memory in the ring, which seals and
// opens without asking anybody, and in the store, each wrapped by every seal.
type sealing struct {
	db     *store.DB
	ring   *seal.Keyring
	logger hclog.Logger
	now    func() time.Time
	times  sealTimes
	step   func(name string) error // nil, or told of each step of a rotation; an error ends the work there
	up     func(seal string, up bool)
	forget func(seal string) // up is told of it under another name from now on

	woken    chan struct{}
	learning sync.Mutex
	making   sync.Mutex

	// What follows belongs to run.
	pause  time.Duration // between two tries to re-wrap, while none has any effect
	resume time.Time     // the next of them
	seen   int           // gained, at the last of them
	scrub  bool          // removed keys are in the database's log yet

	mu      sync.Mutex
	made    []seal.Seal
	unmade  []unmade
	stops   []func()
	states  map[string]sealState // of seals, by id
	unknown map[string]sealState // of keys of the store that no seal opened, by id
	stuck   int                  // values that could not be re-wrapped when that was last tried
	gained  int                  // keys that were opened since the start
	waiting error                // why re-wrapping does not go on here
}

// sealState is how asking a seal, or for a key, ended the last time.
type sealState struct {
	at  time.Time
	err error
}

// openSeals makes the seals of the configuration and opens the store's keys with
// them, or makes the first key. What was sealed and cannot be opened any more is
// refused, rather than anything new sealed beside it. Any one seal is enough; of the
// others it is said what is wrong with them.
func openSeals(ctx context.Context, cfg *config.Config, db *store.DB, logger hclog.Logger) (*sealing, error) {
	s := newSealing(db, logger)
	if err := s.start(ctx, cfg); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *sealing) start(ctx context.Context, cfg *config.Config) error {
	for _, c := range cfg.Seals {
		s.add(ctx, c)
	}
	keys, err := s.stored(ctx)
	if err == nil && len(keys) == 0 {
		keys, err = s.begin(ctx)
	}
	if err != nil {
		return err
	}
	newest, err := s.unwrap(ctx, keys[0])
	if err != nil {
		return s.cannotOpen(cfg, err)
	}
	for _, u := range s.notMade() { // a key file is never made here: a disk may not be mounted
		s.logger.Error("a seal cannot be used; another one opens the data", "seal", u.id, "error", u.err)
	}
	s.ring = seal.NewKeyring(newest, s.learn)
	_ = s.adopt(ctx, keys) // what cannot be opened is logged, and tried again
	return nil
}

// openExistingSeals is openSeals for data that must be there already.
func openExistingSeals(ctx context.Context, cfg *config.Config, db *store.DB, logger hclog.Logger) (*sealing, error) {
	keys, err := newSealing(db, logger).stored(ctx)
	if err == nil && len(keys) == 0 {
		err = fmt.Errorf("%w: nothing was ever sealed in this database", backends.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return openSeals(ctx, cfg, db, logger)
}

func newSealing(db *store.DB, logger hclog.Logger) *sealing {
	return &sealing{db: db, logger: logger, now: now, times: usualSealTimes, up: func(string, bool) {}, forget: func(string) {},
		woken: make(chan struct{}, 1), states: map[string]sealState{}, unknown: map[string]sealState{}}
}

// close ends what the seals keep running.
func (s *sealing) close() {
	s.mu.Lock()
	stops := s.stops
	s.mu.Unlock()
	for _, stop := range stops {
		stop()
	}
}

// stored reads the store's keys, the newest first.
func (s *sealing) stored(ctx context.Context) (keys []store.SealKey, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		keys, err = tx.SealKeys(ctx)
		return err
	})
	return keys, err
}

// begin makes the first key of an installation, and the key files. Another node may be
// faster: then its key is the one.
func (s *sealing) begin(ctx context.Context) ([]store.SealKey, error) {
	created, err := s.createMissing()
	if err != nil {
		return nil, err
	}
	for _, u := range s.notMade() {
		return nil, u.err
	}
	if err := s.at("begin"); err != nil {
		return nil, err
	}
	_, key, away, err := s.make(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range away {
		s.logger.Warn("a seal cannot be used; the key is wrapped by it as soon as it can", "seal", a.id, "error", a.err)
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		keys, err := tx.SealKeys(ctx)
		if err != nil || len(keys) > 0 {
			return err
		}
		return tx.AddSealKey(ctx, key)
	})
	if err != nil && !errors.Is(err, backends.ErrConflict) {
		return nil, err
	}
	keys, err := s.stored(ctx)
	if err == nil && keys[0].ID != key.ID && len(created) > 0 {
		err = s.shared(ctx, keys[0], created)
	}
	return keys, err
}

// shared makes sure that key files which were just made open the key that another node
// was faster to make, or that another seal does. Else they are worth nothing, and in
// the way of the file that belongs there.
func (s *sealing) shared(ctx context.Context, key store.SealKey, created []*seal.File) error {
	_, err := s.unwrap(ctx, key)
	if err == nil || errors.Is(err, backends.ErrUnavailable) {
		return err
	}
	var paths []string
	for _, f := range created {
		paths = append(paths, f.Path())
		if err := os.Remove(f.Path()); err != nil {
			return fmt.Errorf("removing a seal key that opens nothing: %w", err)
		}
	}
	return fmt.Errorf("%w: another node has begun with a seal key of its own: %s is not shared between the nodes. Copy its file here, mode 0600, or give all nodes one path",
		backends.ErrConflict, strings.Join(paths, ", "))
}

// awaySeal is one that has not wrapped a key, and why.
type awaySeal struct {
	id  string
	err error
}

// make draws a key and has all seals wrap it, and open again what they wrapped; at
// least one of them must. Away are the others.
func (s *sealing) make(ctx context.Context) (_ *seal.KEK, _ store.SealKey, away []awaySeal, err error) {
	kek := seal.NewKEK()
	key := store.SealKey{ID: kek.ID(), CreatedAt: s.now()}
	var failures []error
	for a := range ask(ctx, s.seals(), kek.WrapBy) {
		s.note(a.seal, a.err)
		if a.err != nil {
			away = append(away, awaySeal{a.seal.ID(), a.err})
			failures = append(failures, a.err)
			continue
		}
		key.Wrappings = append(key.Wrappings, store.Wrapping{Seal: a.seal.ID(), Wrapped: a.value, CreatedAt: key.CreatedAt})
	}
	for _, u := range s.notMade() {
		away = append(away, awaySeal{u.id, u.err})
		failures = append(failures, u.err)
	}
	if len(key.Wrappings) == 0 {
		return nil, key, away, fmt.Errorf("no seal can be used: %w", errors.Join(failures...))
	}
	return kek, key, away, nil
}

// unwrap has any one of the seals open a key.
func (s *sealing) unwrap(ctx context.Context, key store.SealKey) (*seal.KEK, error) {
	seals := s.seals()
	if len(seals) == 0 {
		return nil, fmt.Errorf("%w: there is no seal to open key %s", backends.ErrNotFound, key.ID)
	}
	var failures []error
	for a := range ask(ctx, seals, func(ctx context.Context, by seal.Seal) (*seal.KEK, error) { return unwrapBy(ctx, by, key) }) {
		if a.err == nil {
			return a.value, nil
		}
		failures = append(failures, a.err)
	}
	return nil, errors.Join(failures...)
}

// unwrapBy has one seal open a key: what it wrapped, or else what a seal of its type
// did, since the same key may have been configured in other words then.
func unwrapBy(ctx context.Context, by seal.Seal, key store.SealKey) (*seal.KEK, error) {
	kind, _, _ := strings.Cut(by.ID(), ":")
	own, akin := []store.Wrapping{}, []store.Wrapping{}
	for _, w := range key.Wrappings {
		if w.Seal == by.ID() {
			own = append(own, w)
		} else if strings.HasPrefix(w.Seal, kind+":") {
			akin = append(akin, w)
		}
	}
	err := fmt.Errorf("%w: seal %s has not wrapped key %s", backends.ErrInvalid, by.ID(), key.ID)
	for _, w := range slices.Concat(own, akin) {
		var kek *seal.KEK
		kek, _, err = unwrapWrapping(ctx, by, key.ID, w)
		if err == nil || !errors.Is(err, backends.ErrInvalid) {
			return kek, err
		}
	}
	return nil, err
}

// unwrapWrapping has a seal open a key by one wrapping, or by what that has replaced,
// and tells which of the two was good.
func unwrapWrapping(ctx context.Context, by seal.Seal, id string, w store.Wrapping) (_ *seal.KEK, good []byte, err error) {
	kek, err := seal.UnwrapKEK(ctx, by, id, w.Wrapped)
	if err == nil {
		return kek, w.Wrapped, nil
	}
	if w.Earlier != nil && errors.Is(err, backends.ErrInvalid) {
		if kek, err := seal.UnwrapKEK(ctx, by, id, w.Earlier); err == nil {
			return kek, w.Earlier, nil
		}
	}
	return nil, nil, err
}

// cannotOpen says what to do about data that no seal opens.
func (s *sealing) cannotOpen(cfg *config.Config, err error) error {
	where, from := "in "+cfg.DataDir, "from where it is kept safe"
	if cfg.Storage.Type == config.PostgreSQL {
		where, from = "in the database", "from where it is kept safe, or from another node"
	}
	var lost []string
	var faults []error
	for _, u := range s.notMade() {
		if u.missing() {
			lost = append(lost, u.config.File.Path)
		} else {
			faults = append(faults, u.err)
		}
	}
	switch {
	case errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrDenied):
		for _, path := range lost {
			faults = append(faults, fmt.Errorf("%w: the seal key %s is missing", backends.ErrNotFound, path))
		}
		return fmt.Errorf("there is data %s, but no seal that opens it can be used now: %w", where, errors.Join(append(faults, err)...))
	case len(lost) > 0:
		return errors.Join(fmt.Errorf("%w: there is data %s, but its seal key %s is missing: put the key back %s, or use an escrow copy (keybroker seal recover)",
			backends.ErrNotFound, where, strings.Join(lost, ", "), from), errors.Join(faults...))
	case len(faults) > 0:
		return fmt.Errorf("there is data %s, but no seal that opens it can be used: %w", where, errors.Join(faults...))
	}
	return fmt.Errorf("the seal key is not the one that this data was sealed with: put that key back, or use an escrow copy (keybroker seal recover): %w", err)
}

// answer is what a seal said.
type answer[T any] struct {
	seal  seal.Seal
	value T
	err   error
}

// ask asks all seals at once, each for at most sealTimeout, and gives their answers
// as they come. Who stops listening cuts the others off.
func ask[T any](ctx context.Context, seals []seal.Seal, question func(context.Context, seal.Seal) (T, error)) iter.Seq[answer[T]] {
	return func(yield func(answer[T]) bool) {
		ctx, cancel := context.WithTimeout(ctx, sealTimeout)
		answers := make(chan answer[T], len(seals)) // nobody waits for who does not listen any more
		var asking sync.WaitGroup
		defer asking.Wait()
		defer cancel()
		for _, by := range seals {
			asking.Go(func() {
				value, err := question(ctx, by)
				answers <- answer[T]{by, value, err}
			})
		}
		for range seals {
			if !yield(<-answers) {
				return
			}
		}
	}
}
