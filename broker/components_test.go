package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// slow is an issuer that takes its time for each check.
type slow struct {
	takes time.Duration

	mu            sync.Mutex
	running, most int
}

func (s *slow) Check(ctx context.Context, sub issuer.Subject) []issuer.Finding {
	s.mu.Lock()
	s.running++
	s.most = max(s.most, s.running)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running--
		s.mu.Unlock()
	}()
	select {
	case <-time.After(s.takes):
		return []issuer.Finding{{What: "connects"}, {What: "role " + string(sub.Settings)}}
	case <-ctx.Done():
		return []issuer.Finding{{What: "connects", Problem: "it cannot be reached", Mend: "see that it is up"}}
	}
}

func mintedFor(n int) []rotation.Secret {
	var all []rotation.Secret
	for i := range n {
		name := fmt.Sprintf("db/%02d", i)
		all = append(all, rotation.Secret{Ref: backends.Ref{Tenant: "default", Name: name}, Definition: rotation.Definition{Settings: json.RawMessage(name)}})
	}
	return all
}

// TestACheckEndsInTime: what does not answer is a finding, and not a client that has
// left; what there was no time for is said.
func TestACheckEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		found := check(t.Context(), &slow{takes: time.Hour}, mintedFor(6))
		if took := time.Since(start); took > checkTimeout {
			t.Errorf("it took %s", took)
		}
		if found.OK || len(found.Checked) != checksAtOnce || len(found.Findings) != 2 || !found.Findings[0].Bad() || found.Findings[0].Secrets != nil ||
			!found.Findings[1].Unknown || !slices.Equal(found.Findings[1].Secrets, []string{"db/04", "db/05"}) {
			t.Errorf("%+v", found)
		}
		start = time.Now()
		if found := check(t.Context(), &slow{takes: time.Hour}, nil); found.OK || time.Since(start) > checkTimeout {
			t.Errorf("for no secret: %+v after %s", found, time.Since(start))
		}
	})
}

// TestACheckOfManySecrets has them in their order, a few at once.
func TestACheckOfManySecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is, start := &slow{takes: 2 * time.Second}, time.Now()
		found := check(t.Context(), is, mintedFor(maxChecked))
		if !found.OK || len(found.Checked) != maxChecked || !slices.IsSorted(found.Checked) || len(found.Findings) != 1+maxChecked || found.Findings[0].Secrets != nil {
			t.Errorf("%+v", found)
		}
		if took := time.Since(start); is.most != checksAtOnce || took != 10*time.Second {
			t.Errorf("%d at once, %s", is.most, took)
		}
	})
}
