package rotation_test

import (
	"errors"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

var declared = time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)

func after(seconds int) time.Time { return declared.Add(time.Duration(seconds) * time.Second) }

// What counts as contained and as proven, of every way that a version can stand.
func TestTally(t *testing.T) {
	for name, tt := range map[string]struct {
		t                       rotation.Retirement
		acked, contained, prove int
	}{
		"asked for":             {rotation.Retirement{State: rotation.Requested}, 0, 0, 0},
		"acknowledged":          {rotation.Retirement{State: rotation.Acknowledged, AcknowledgedAt: after(1)}, 1, 0, 0},
		"rejected":              {rotation.Retirement{State: rotation.Rejecting, AcknowledgedAt: after(1), ContainedAt: after(2)}, 1, 1, 0},
		"proven":                {rotation.Retirement{State: rotation.ProvenDead, AcknowledgedAt: after(1), ContainedAt: after(2), ProvenAt: after(3)}, 1, 1, 1},
		"never made":            {rotation.Retirement{State: rotation.Acknowledged, NeverMade: true, NothingAt: after(2)}, 1, 1, 1},
		"resurrected":           {rotation.Retirement{State: rotation.Resurrected, AcknowledgedAt: after(1), ContainedAt: after(2), ProvenAt: after(3), LastAcceptedAt: after(4)}, 1, 0, 0},
		"unconfirmed, accepted": {rotation.Retirement{State: rotation.Unconfirmed, AcknowledgedAt: after(1), ContainedAt: after(2), LastAcceptedAt: after(3)}, 1, 0, 0},
		"unconfirmed, rejected": {rotation.Retirement{State: rotation.Unconfirmed, AcknowledgedAt: after(1), ContainedAt: after(3), LastAcceptedAt: after(2)}, 1, 1, 0},
		"unprovable":            {rotation.Retirement{State: rotation.Unprovable, AcknowledgedAt: after(1)}, 1, 0, 0},
	} {
		var n rotation.Tally
		n.Count(tt.t, after(1))
		if n.Versions != 1 || n.Acknowledged != tt.acked || n.Contained != tt.contained || n.Proven != tt.prove {
			t.Errorf("%s: %+v", name, n)
		}
		if n.AllContained() != (tt.contained == 1) || n.AllProven() != (tt.prove == 1) {
			t.Errorf("%s: contained %v, proven %v", name, n.AllContained(), n.AllProven())
		}
		before := rotation.Tally{}
		before.Count(tt.t, after(60))
		if dead := tt.prove == 1; (before == rotation.Tally{AlreadyDead: 1}) != dead || !dead && before != n {
			t.Errorf("%s, before the incident: %+v", name, before)
		}
		n.Pending = 1
		if n.AllContained() || n.AllProven() {
			t.Errorf("%s: it is said to be over, and something was not begun", name)
		}
	}
}

// Contained and proven are when the last of the versions was, and no more so once one of
// them works again.
func TestLookedAt(t *testing.T) {
	i := rotation.Incident{State: rotation.IncidentOpen, DeclaredAt: declared}
	dead := rotation.Retirement{State: rotation.ProvenDead, ContainedAt: after(2), ProvenAt: after(9)}
	alive := rotation.Retirement{State: rotation.Acknowledged}
	look := func(now time.Time, all ...rotation.Retirement) {
		var n rotation.Tally
		for _, r := range all {
			n.Count(r, i.Began())
		}
		i.Looked(n, now)
	}
	look(after(3), dead, alive)
	if !i.ContainedAt.IsZero() || !i.ProvenAt.IsZero() || !i.NextAt.Equal(after(5)) {
		t.Errorf("with one alive: %+v", i)
	}
	alive.State, alive.ContainedAt = rotation.Rejecting, after(4)
	look(after(5), dead, alive)
	if !i.ContainedAt.Equal(after(4)) || !i.ProvenAt.IsZero() {
		t.Errorf("with all contained: %+v", i)
	}
	alive.State, alive.ProvenAt = rotation.ProvenDead, after(7)
	look(after(10), dead, alive)
	if !i.ContainedAt.Equal(after(4)) || !i.ProvenAt.Equal(after(9)) || i.NextAt.Before(after(60)) {
		t.Errorf("with all proven: %+v", i)
	}
	alive.State = rotation.Resurrected
	look(after(4000), dead, alive)
	if !i.ContainedAt.IsZero() || !i.ProvenAt.IsZero() || i.NextAt.After(after(4100)) {
		t.Errorf("with one that works again: %+v", i)
	}
	long := rotation.Retirement{State: rotation.ProvenDead, ContainedAt: after(-100), ProvenAt: after(-90)}
	look(after(10), long) // dead before anybody declared anything
	if !i.ContainedAt.Equal(declared) || !i.ProvenAt.Equal(declared) {
		t.Errorf("with one that was dead before: %+v", i)
	}
}

func TestASecondPersonApproves(t *testing.T) {
	for name, tt := range map[string]struct {
		by, lineage string
		state       rotation.IncidentState
		want        error
	}{
		"somebody else":             {"bob", "root2/bob", rotation.IncidentProposed, nil},
		"who declared it":           {"ann", "root/ann", rotation.IncidentProposed, backends.ErrDenied},
		"a token of the same hand":  {"ann-2", "root/ann/ann-2", rotation.IncidentProposed, backends.ErrDenied},
		"what is open already":      {"bob", "", rotation.IncidentOpen, backends.ErrConflict},
		"what was rejected already": {"bob", "", rotation.IncidentRejected, backends.ErrConflict},
	} {
		i := rotation.Incident{ID: "i", State: tt.state, Actor: "ann", Lineage: "root/ann", DeclaredAt: declared, ApproveBy: after(60)}
		err := i.Approve(tt.by, tt.lineage, after(5))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (i.State != rotation.IncidentOpen || !i.ApproveBy.IsZero() || !i.Began().Equal(after(5)) || !i.NextAt.Equal(after(5))) {
			t.Errorf("%s: %+v", name, i)
		}
	}
}

func TestIncidentsEnd(t *testing.T) {
	open := rotation.Incident{State: rotation.IncidentOpen, Hold: true, NextAt: after(1)}
	proposed := rotation.Incident{State: rotation.IncidentProposed, Hold: true, NextAt: after(1)}
	if err := open.Reject("bob", "no", after(2)); !errors.Is(err, backends.ErrConflict) {
		t.Errorf("rejecting what is open: %v", err)
	}
	if err := proposed.Close("bob", "no", false, after(2)); !errors.Is(err, backends.ErrConflict) {
		t.Errorf("closing what is proposed: %v", err)
	}
	if err := errors.Join(open.Close("bob", "done", true, after(2)), proposed.Reject("bob", "no", after(2))); err != nil {
		t.Error(err)
	}
	if !open.Over() || !open.Hold || open.ClosedBy != "bob" || !open.NextAt.IsZero() || !proposed.Over() || proposed.Hold || !proposed.NextAt.IsZero() {
		t.Errorf("%+v\n%+v", open, proposed)
	}
	if err := open.Close("bob", "again", false, after(3)); !errors.Is(err, backends.ErrConflict) {
		t.Errorf("closing what is closed: %v", err)
	}
}
