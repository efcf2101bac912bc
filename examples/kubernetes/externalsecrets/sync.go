package externalsecrets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"
)

const (
	attempts = 5                      // at an object that others change at the same time
	pause    = 500 * time.Millisecond // between two looks at whether it was refreshed
)

// ErrNotRefreshed says that the operator was asked to refresh, and has not in time.
var ErrNotRefreshed = errors.New("the operator has not refreshed it")

// Syncer finds the ExternalSecrets of a secret and has them refreshed. It keeps nothing
// between calls: what was done is written in the annotations. Safe for concurrent use.
type Syncer struct {
	Cluster *Cluster
	// Namespaces are searched for ExternalSecrets that refer to the secret.
	Namespaces []string
	// Prefixes are what stores put before a secret's name to call it their key; that
	// without any is meant, too.
	Prefixes []string
	// Named are ExternalSecrets by secret that are its whatever they refer to.
	Named map[string][]Name
	// Wait is how long is waited for all of them to be refreshed; 0: it is not.
	Wait time.Duration
	Log  *slog.Logger
}

// Sync has the operator refresh whatever it copied of the secret, unless that was asked
// for this generation, or a newer one, before. It does what can be done and returns all
// that failed; to repeat it is safe. ErrNotRefreshed: asked it was, refreshed it is not.
func (s *Syncer) Sync(ctx context.Context, secret string, generation int64) error {
	found, failed := s.find(ctx, secret)
	if len(found) == 0 && failed == nil {
		s.Log.Warn("no ExternalSecret refers to the secret", "secret", secret, "namespaces", s.Namespaces)
	}
	var asked []Name
	for _, e := range found {
		log := s.Log.With("external_secret", e.Name().String(), "secret", secret, "generation", generation)
		if why := e.frozen(); why != "" {
			log.Warn("the operator never refreshes this one: the new version has to be brought to it by hand", "reason", why)
			continue
		}
		changed, err := s.mark(ctx, e, secret, generation)
		switch {
		case refusedWith(err, http.StatusNotFound): // deleted meanwhile
			continue
		case err != nil:
			failed = errors.Join(failed, err)
			continue
		case changed:
			log.Info("asked the operator to refresh")
		}
		asked = append(asked, e.Name())
	}
	if s.Wait > 0 {
		failed = errors.Join(failed, s.await(ctx, asked))
	}
	return failed
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

// mark notes the generation on an ExternalSecret, which makes the operator refresh it. It
// changes nothing where that one or a newer one is noted already. The API server takes
// the change only if nobody else was in between; then the object is read anew.
func (s *Syncer) mark(ctx context.Context, e ExternalSecret, secret string, generation int64) (changed bool, err error) {
	for range attempts {
		m := readMarks(e.Metadata.Annotations[forceSync])
		if m[secret] >= generation {
			return false, nil
		}
		m[secret] = generation
		err = s.Cluster.annotate(ctx, e, map[string]string{forceSync: m.String(), refreshed: e.state()})
		if !refusedWith(err, http.StatusConflict) {
			return err == nil, err
		}
		var again error
		if e, again = s.Cluster.get(ctx, e.Name()); again != nil {
			return false, again
		}
	}
	return false, err
}

// await looks until all of them have been refreshed since they were marked. A refresh that
// was under way at that moment is taken for it; the operator then begins another at once.
// So is an ExternalSecret whose ClusterExternalSecret took our annotations away: that was a
// change as well.
func (s *Syncer) await(ctx context.Context, names []Name) error {
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for _, n := range names {
		for {
			e, err := s.Cluster.get(ctx, n)
			if refusedWith(err, http.StatusNotFound) {
				break
			}
			if err == nil && e.Metadata.Annotations[refreshed] != e.state() {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("waiting %s for ExternalSecret %s: %w", s.Wait, n, errors.Join(ErrNotRefreshed, err))
			case <-tick.C:
			}
		}
	}
	return nil
}
