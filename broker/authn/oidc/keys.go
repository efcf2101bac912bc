package oidc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
)

const (
	// freshFor is how long keys are used before the provider is asked for them again,
	// and staleFor how long at most while it does not answer: a key that was withdrawn
	// is no longer accepted then. Whoever logs in waits for fresh keys for patience at
	// most, and not at all while the provider is known to fail.
	freshFor = 5 * time.Minute
	staleFor = time.Hour
	patience = time.Second
	// unknownEvery is how long the provider is left alone after each try, whoever shows
	// keys that are not known; after failures it is retryFirst, doubled up to retryMost.
	unknownEvery = 10 * time.Second
	retryFirst   = 2 * time.Second
	retryMost    = 30 * time.Second
	askTimeout   = 10 * time.Second
)

// What somebody whom nobody knows yet is told, while the log has the reason.
var (
	errNoKeys   = fmt.Errorf("%w: the provider's keys cannot be got", backends.ErrUnavailable)
	errTooEarly = fmt.Errorf("%w: it is signed by a key that is not known yet, and the provider was asked for its keys a moment ago", backends.ErrUnavailable)
)

// keySource has the keys of a provider. It is safe for concurrent use.
type keySource interface {
	// find returns the keys that may have signed what says to be signed by the key
	// called id (empty: it does not say) with alg. None if the provider has no such
	// key; errNoKeys or errTooEarly if it cannot be told.
	find(ctx context.Context, id string, alg jose.SignatureAlgorithm) ([]jose.JSONWebKey, error)
	// end waits for what is on its way. Nothing is asked for afterwards.
	end()
}

func fitting(keys []jose.JSONWebKey, id string, alg jose.SignatureAlgorithm) (found []jose.JSONWebKey) {
	for _, k := range keys {
		if (id == "" || k.KeyID == id) && (k.Algorithm == "" || k.Algorithm == string(alg)) {
			found = append(found, k)
		}
	}
	return found
}

// trouble tells the log why keys cannot be got: once for each reason, and when that is
// over.
type trouble struct {
	logger hclog.Logger
	mu     sync.Mutex
	said   string
}

func (t *trouble) tell(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil && t.said != "":
		t.said = ""
		t.logger.Info("the provider's keys can be got again")
	case err != nil && t.said != err.Error():
		t.said = err.Error()
		t.logger.Warn("the provider's keys cannot be got; logins that need them fail until they can", "error", err)
	}
}

// keyFile is a file of keys, which is read each time.
type keyFile struct {
	path    string
	trouble trouble
}

func (f *keyFile) find(_ context.Context, id string, alg jose.SignatureAlgorithm) ([]jose.JSONWebKey, error) {
	keys, err := readKeys(f.path)
	if f.trouble.tell(err); err != nil {
		return nil, errNoKeys
	}
	return fitting(keys, id, alg), nil
}

func (f *keyFile) end() {}

// keySet holds the keys of a provider that is asked over the network: none at first,
// asked for when they are needed, by one try at a time that is nobody's own. Whoever
// needs the answer waits for it as long as they like; whoever leaves ends nothing.
type keySet struct {
	load    func(context.Context) ([]jose.JSONWebKey, error)
	now     func() time.Time
	trouble trouble
	tries   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	try      *try // nil: none is on its way
	keys     []jose.JSONWebKey
	loadedAt time.Time // when the try that got them began; zero: never
	endedAt  time.Time // of the last try
	failures int       // in a row
}

// try is one attempt to get the keys.
type try struct {
	began  time.Time
	ended  chan struct{}
	cancel context.CancelFunc
}

func newKeySet(load func(context.Context) ([]jose.JSONWebKey, error), now func() time.Time, logger hclog.Logger) *keySet {
	return &keySet{load: load, now: now, trouble: trouble{logger: logger}}
}

func (s *keySet) find(ctx context.Context, id string, alg jose.SignatureAlgorithm) ([]jose.JSONWebKey, error) {
	found, t, err := s.look(id, alg)
	if t == nil {
		return found, err
	}
	if len(found) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	select {
	case <-t.ended:
		return s.after(id, alg)
	case <-ctx.Done():
	}
	if len(found) > 0 {
		return found, nil
	}
	return nil, fmt.Errorf("%w: %w", errNoKeys, ctx.Err())
}

// look returns the keys that are known, and the try that is worth waiting for; nil:
// nothing better comes.
func (s *keySet) look(id string, alg jose.SignatureAlgorithm) (found []jose.JSONWebKey, wait *try, err error) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	usable := s.usable(now)
	if usable {
		found = fitting(s.keys, id, alg)
	}
	if len(found) > 0 && now.Sub(s.loadedAt) < freshFor {
		return found, nil, nil
	}
	t := s.ask(now)
	switch {
	case len(found) > 0 && (t == nil || s.failures > 0):
		return found, nil, nil // fresh ones will be there for whoever comes next
	case t != nil:
		return found, t, nil
	case usable && s.failures == 0:
		return nil, nil, errTooEarly
	}
	return nil, nil, errNoKeys
}

// after returns the keys that are known when a try has ended.
func (s *keySet) after(id string, alg jose.SignatureAlgorithm) (found []jose.JSONWebKey, err error) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	usable := s.usable(now)
	if usable {
		found = fitting(s.keys, id, alg)
	}
	if len(found) == 0 && (!usable || s.failures > 0) {
		return nil, errNoKeys
	}
	return found, nil
}

func (s *keySet) usable(now time.Time) bool {
	return !s.loadedAt.IsZero() && now.Sub(s.loadedAt) < staleFor
}

// ask returns the try that is on its way, beginning one if the provider has been left
// alone for long enough; nil: it has not.
func (s *keySet) ask(now time.Time) *try {
	if s.try != nil {
		return s.try
	}
	if s.closed || !s.endedAt.IsZero() && now.Sub(s.endedAt) < s.pause() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	s.try = &try{began: now, ended: make(chan struct{}), cancel: cancel}
	s.tries.Go(func() {
		defer cancel()
		keys, err := s.load(ctx)
		s.land(keys, err)
	})
	return s.try
}

func (s *keySet) pause() time.Duration {
	if s.failures == 0 {
		return unknownEvery
	}
	return min(retryFirst<<min(s.failures-1, 10), retryMost)
}

// land takes what a try has brought.
func (s *keySet) land(keys []jose.JSONWebKey, err error) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.trouble.tell(err)
	}
	if s.failures++; err == nil {
		s.keys, s.loadedAt, s.failures = keys, s.try.began, 0
	}
	s.endedAt = now
	close(s.try.ended)
	s.try = nil
}

func (s *keySet) end() {
	s.mu.Lock()
	s.closed = true
	if s.try != nil {
		s.try.cancel()
	}
	s.mu.Unlock()
	s.tries.Wait()
}
