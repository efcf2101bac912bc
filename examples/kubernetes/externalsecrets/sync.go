package externalsecrets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	attempts = 5                      // at an object that others change at the same time
	pause    = 500 * time.Millisecond // between two looks at whether it was refreshed
)

// Why nothing, or not all, was refreshed, although nothing broke.
var (
	// ErrNotRefreshed says that the operator was asked to refresh, and has not in time.
	ErrNotRefreshed = errors.New("the operator has not refreshed it")
	// ErrNone says that nobody copies the secret, as far as the Syncer was told where to look.
	ErrNone = errors.New("no ExternalSecret refers to the secret")
	// ErrFrozen says that the new version has to be brought there by hand.
	ErrFrozen = errors.New("the operator never refreshes it")
)

// News is that a version of a secret has become current.
type News struct {
	Message    string // its webhook-id, which stays the same when it is repeated
	Secret     string // "payments/stripe"; another tenant's than the default one: "acme:payments/stripe"
	Generation int64
}

// name is the secret's without its tenant: stores know nothing of that, and a consumer is
// told of the secrets of one tenant only.
func (n News) name() string {
	if _, name, ok := strings.Cut(n.Secret, ":"); ok {
		return name
	}
	return n.Secret
}

func (n News) mark() string { return strconv.FormatInt(n.Generation, 10) + ":" + n.Message }

// Syncer finds the ExternalSecrets of a secret and has them refreshed. It keeps nothing
// between calls: what was done is written in the annotations. Safe for concurrent use.
type Syncer struct {
	Cluster *Cluster
	// Namespaces are searched for ExternalSecrets that refer to the secret.
	Namespaces []string
	// Prefixes are what stores put before a secret's name to call it their key; that
	// without any is meant, too.
	Prefixes []string
	// Named are ExternalSecrets by the secret's name, without a tenant, that are its
	// whatever they refer to.
	Named map[string][]Name
	// AllowNone says in the log only what else are ErrNone and ErrFrozen. Whoever takes
	// success for the cluster's consent to revoke the old version must not set it.
	AllowNone bool
	// Wait is how long is waited for all of them to be refreshed; 0: it is not.
	Wait time.Duration
	Log  *slog.Logger
}

// asked is an ExternalSecret that the operator is to refresh, and its state before.
type asked struct {
	name   Name
	before string
}

// Sync has the operator refresh whatever it copied of the secret, unless that was asked
// for this message before. It does what can be done and returns all that failed; to
// repeat it is safe. ErrNone and ErrFrozen: a copy that nobody refreshes may be in use.
// ErrNotRefreshed: asked it was, refreshed it is not.
func (s *Syncer) Sync(ctx context.Context, n News) error {
	log := s.Log.With("secret", n.Secret, "generation", n.Generation)
	found, failed := s.find(ctx, n.name())
	if len(found) == 0 && failed == nil {
		failed = s.tolerate(log, fmt.Errorf("%w %s in the namespaces %q, by prefixes %q", ErrNone, n.Secret, s.Namespaces, s.Prefixes))
	}
	var all []asked
	for _, e := range found {
		log := log.With("external_secret", e.Name().String())
		if why := e.frozen(); why != "" {
			failed = errors.Join(failed, s.tolerate(log, fmt.Errorf("ExternalSecret %s: %w: %s", e.Name(), ErrFrozen, why)))
			continue
		}
		before, err := s.mark(ctx, e, n, log)
		if err != nil { // also if it was deleted meanwhile: the repetition does not find it
			failed = errors.Join(failed, err)
			continue
		}
		all = append(all, asked{e.Name(), before})
	}
	if s.Wait > 0 {
		failed = errors.Join(failed, s.await(ctx, all))
	}
	return failed
}

// tolerate takes an error to the log if that is allowed, and returns it otherwise.
func (s *Syncer) tolerate(log *slog.Logger, err error) error {
	if !s.AllowNone {
		return err
	}
	log.Warn("nothing is refreshed, which is allowed", "reason", err)
	return nil
}

// Check tells whether what Sync needs may be read; the right to patch shows when it is used.
func (s *Syncer) Check(ctx context.Context) error {
	var failed error
	for _, namespace := range s.Namespaces {
		_, err := s.Cluster.list(ctx, namespace)
		failed = errors.Join(failed, err)
	}
	for _, names := range s.Named {
		for _, n := range names {
			_, err := s.Cluster.get(ctx, n)
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// find returns each ExternalSecret of the secret once, and what could not be searched.
func (s *Syncer) find(ctx context.Context, secret string) (found []ExternalSecret, failed error) {
	keys := []string{secret}
	for _, prefix := range s.Prefixes {
		keys = append(keys, prefix+secret)
	}
	for _, namespace := range s.Namespaces {
		all, err := s.Cluster.list(ctx, namespace)
		failed = errors.Join(failed, err)
		for _, e := range all {
			if e.refersTo(keys) {
				found = append(found, e)
			}
		}
	}
	for _, n := range s.Named[secret] {
		if slices.ContainsFunc(found, func(e ExternalSecret) bool { return e.Name() == n }) {
			continue
		}
		e, err := s.Cluster.get(ctx, n)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		found = append(found, e)
	}
	return found, failed
}

// mark notes the message on an ExternalSecret, which makes the operator refresh it, and
// returns its state before. It changes nothing where the message is noted already. The API
// server takes the change only if nobody else was in between; then the object is read anew.
// An older generation than the one noted is refreshed for as well: what the operator reads
// is the current version in any case, and generations may have begun again.
func (s *Syncer) mark(ctx context.Context, e ExternalSecret, n News, log *slog.Logger) (before string, err error) {
	for range attempts {
		m := readMarks(e.Metadata.Annotations[forceSync])
		if before = e.Metadata.Annotations[refreshed]; before != "" && m[n.Secret] == n.mark() {
			return before, nil
		}
		m[n.Secret], before = n.mark(), e.state()
		err = s.Cluster.annotate(ctx, e, map[string]string{forceSync: m.String(), refreshed: before})
		if err == nil {
			log.Info("asked the operator to refresh")
		}
		if !refusedWith(err, http.StatusConflict) {
			return before, err
		}
		var again error
		if e, again = s.Cluster.get(ctx, e.Name()); again != nil {
			return "", again
		}
	}
	return "", err
}

// await looks, at least once, until all of them have been refreshed since they were marked.
// A change of somebody else's right before our mark may be taken for it; the operator then
// begins another refresh at once.
func (s *Syncer) await(ctx context.Context, all []asked) error {
	late := time.After(s.Wait)
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for _, a := range all {
		for {
			e, err := s.Cluster.get(ctx, a.name)
			if refusedWith(err, http.StatusNotFound) || err == nil && e.refreshedSince(a.before) {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-late:
				return fmt.Errorf("waiting %s for ExternalSecret %s: %w", s.Wait, a.name, errors.Join(ErrNotRefreshed, err))
			case <-tick.C:
			}
		}
	}
	return nil
}
