package rotation_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// TestNextByItself: while something is under way, a time is told only if it is one.
func TestNextByItself(t *testing.T) {
	due, opens := time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC), time.Date(2026, 10, 31, 2, 0, 0, 0, time.UTC)
	secret := func(current int, schedule string) rotation.Secret {
		return rotation.Secret{Current: current, NextDueAt: due, Definition: rotation.Definition{Schedule: schedule}}
	}
	shut := &rotation.Rotation{State: rotation.Queued, WaitingFor: rotation.WaitWindow, NextAt: opens}
	making, done := &rotation.Rotation{State: rotation.Minting}, &rotation.Rotation{State: rotation.Retiring}
	overlap := &rotation.Rotation{State: rotation.Overlap, PublishedAt: opens}
	for name, c := range map[string]struct {
		s    rotation.Secret
		r    *rotation.Rotation
		want time.Time
	}{
		"nothing is under way":                      {secret(1, ""), nil, due},
		"only a proof is waited for":                {secret(1, ""), done, due},
		"it is published":                           {secret(2, ""), overlap, due},
		"it waits for the window":                   {secret(0, ""), shut, opens},
		"the first is being made":                   {secret(0, "@daily"), making, time.Time{}},
		"what it is due by is being replaced":       {secret(1, ""), making, time.Time{}},
		"it has a schedule, whatever comes of this": {secret(1, "@daily"), making, due},
	} {
		if got := rotation.NextByItself(c.s, c.r); !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
