package rotation_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// TestRule17AClockThatStepsProvesNothing: a proof takes its rounds, however far the
// clock jumps between two of them, and its window on a clock that runs forward.
func TestRule17AClockThatStepsProvesNothing(t *testing.T) {
	for name, steps := range map[string][]time.Duration{
		"forward": {time.Second, 24 * time.Hour},
		"back":    {time.Second, -24 * time.Hour, time.Second, time.Second, time.Second},
	} {
		r := rotation.Retirement{State: rotation.Acknowledged, HasProbe: true, AcknowledgedAt: start,
			Confirm: rotation.Confirm{Rejections: 3, Window: time.Minute, Budget: 48 * time.Hour}}
		now := start
		for i, step := range steps {
			now = now.Add(step)
			r.RoundMade(rotation.Rejected, rotation.ControlCurrent, "", now)
			if r.State == rotation.ProvenDead {
				t.Errorf("%s: proven after %d rounds", name, i+1)
			}
		}
	}
}
