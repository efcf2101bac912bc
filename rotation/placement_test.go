package rotation_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

type stagesOf = map[string]backends.VersionID

// settledMirror holds version 2 as "b", has version 1 as "a" in its overlap, and was
// compared once since.
func settledMirror(at time.Time) rotation.Placement {
	p := rotation.Placement{SecretID: "s", Backend: "us"}
	p.Wanted(rotation.RoleMirror, 1, false, at)
	p.Placed(1, "a", 1, at)
	p.Wanted(rotation.RoleMirror, 2, false, at)
	p.Placed(2, "b", 2, at)
	p.Compared(rotation.Found{ID: "b", At: at, Version: 2, Stages: stagesOf{"AWSCURRENT": "b", "AWSPREVIOUS": "a"}}, 1, at, at.Add(time.Hour))
	return p
}

func TestWhatAComparisonFinds(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	right := stagesOf{"AWSCURRENT": "b", "AWSPREVIOUS": "a"}
	for name, c := range map[string]struct {
		found rotation.Found
		want  rotation.DriftKind // empty: none
		have  int
	}{
		"what was left there":            {rotation.Found{ID: "b", Version: 2, Stages: right}, "", 2},
		"nothing":                        {rotation.Found{}, rotation.DriftMissing, 2},
		"a stranger's value":             {rotation.Found{ID: "x"}, rotation.DriftChanged, 2},
		"a stranger's under the same id": {rotation.Found{ID: "b", Stages: right}, rotation.DriftChanged, 2},
		"the version before":             {rotation.Found{ID: "a", Version: 1}, rotation.DriftMoved, 2},
		"the same value written again":   {rotation.Found{ID: "c", Version: 2, Stages: stagesOf{"AWSCURRENT": "c"}}, "", 2},
		"another stage moved":            {rotation.Found{ID: "b", Version: 2, Stages: stagesOf{"AWSCURRENT": "b", "AWSPREVIOUS": "x"}}, rotation.DriftMoved, 2},
		"the overlapping one destroyed":  {rotation.Found{ID: "b", Version: 2, Stages: right, Gone: []backends.VersionID{"a"}}, rotation.DriftDestroyed, 2},
		"one that nobody needs is gone":  {rotation.Found{ID: "b", Version: 2, Stages: right, Gone: []backends.VersionID{"z"}}, "", 2},
	} {
		p := settledMirror(at)
		p.Compared(c.found, 1, at.Add(time.Minute), at.Add(time.Hour))
		got := rotation.DriftKind("")
		if p.Drift != nil {
			got = p.Drift.Kind
		}
		if got != c.want || p.Have != c.have {
			t.Errorf("%s: drift %q, want %q; it has version %d", name, got, c.want, p.Have)
		}
		if lags := p.Lags(); lags != (c.want == rotation.DriftMissing || c.want == rotation.DriftChanged || c.want == rotation.DriftMoved && c.found.ID == "a") {
			t.Errorf("%s: the mirror lags: %t", name, lags)
		}
	}
}

// A finding keeps the time when it was found first, and ends when it is gone.
func TestDriftKeepsItsBeginning(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p := settledMirror(at)
	p.Compared(rotation.Found{ID: "x"}, 1, at.Add(time.Minute), at.Add(time.Hour))
	p.Compared(rotation.Found{ID: "x"}, 1, at.Add(2*time.Minute), at.Add(time.Hour))
	if p.Drift == nil || !p.Drift.FoundAt.Equal(at.Add(time.Minute)) {
		t.Errorf("%+v", p.Drift)
	}
	p.Compared(rotation.Found{ID: "b", Version: 2, Stages: stagesOf{"AWSCURRENT": "b", "AWSPREVIOUS": "a"}}, 1, at.Add(3*time.Minute), at.Add(time.Hour))
	if p.Drift != nil {
		t.Errorf("%+v", p.Drift)
	}
}

// What is written to a vault, and what is not, in every situation.
func TestWhenAVaultIsWritten(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		change func(*rotation.Placement, *rotation.PlacementFacts)
		want   bool
	}{
		"in step":                {func(*rotation.Placement, *rotation.PlacementFacts) {}, false},
		"behind":                 {func(p *rotation.Placement, f *rotation.PlacementFacts) { p.Want, f.Current = 3, 3 }, true},
		"behind, frozen":         {func(p *rotation.Placement, f *rotation.PlacementFacts) { p.Want, f.Current, f.Frozen = 3, 3, true }, false},
		"the current one dies":   {func(p *rotation.Placement, f *rotation.PlacementFacts) { p.Want, f.Current = 3, 0 }, false},
		"behind the want itself": {func(p *rotation.Placement, f *rotation.PlacementFacts) { p.Want, f.Current = 3, 4 }, false},
		"a stranger's, report": {func(p *rotation.Placement, f *rotation.PlacementFacts) {
			p.Drift, p.Want, f.Current = &rotation.Drift{Kind: rotation.DriftChanged, ID: "x"}, 3, 3
		}, false},
		"a stranger's, restore": {func(p *rotation.Placement, f *rotation.PlacementFacts) {
			p.Drift, f.Rule = &rotation.Drift{Kind: rotation.DriftChanged, ID: "x"}, rotation.DriftRestore
		}, true},
		"a stranger's, restore, of the primary": {func(p *rotation.Placement, f *rotation.PlacementFacts) {
			p.Role, p.Drift, f.Rule = rotation.RolePrimary, &rotation.Drift{Kind: rotation.DriftChanged, ID: "x"}, rotation.DriftRestore
		}, true},
		"the same while a rotation writes": {func(p *rotation.Placement, f *rotation.PlacementFacts) {
			p.Role, p.Drift, f.Rule, f.Busy = rotation.RolePrimary, &rotation.Drift{Kind: rotation.DriftChanged, ID: "x"}, rotation.DriftRestore, true
		}, false},
		"an older one of ours, report": {func(p *rotation.Placement, f *rotation.PlacementFacts) {
			p.Drift = &rotation.Drift{Kind: rotation.DriftMoved, ID: "a", Version: 1}
		}, false},
		"the same when a new one is there": {func(p *rotation.Placement, f *rotation.PlacementFacts) {
			p.Want, f.Current, p.Drift = 3, 3, &rotation.Drift{Kind: rotation.DriftMoved, ID: "a", Version: 1}
		}, true},
		"a vault of former times": {func(p *rotation.Placement, f *rotation.PlacementFacts) {
			p.Role, p.Want, f.Current = rotation.RoleFormer, 3, 3
		}, false},
		"another node is at it": {func(p *rotation.Placement, f *rotation.PlacementFacts) {
			p.Want, f.Current = 3, 3
			p.Begin(rotation.Place, "other", time.Minute, at)
		}, false},
		"asked to look first": {func(p *rotation.Placement, f *rotation.PlacementFacts) { p.Want, f.Current, p.Asked = 3, 3, true }, false},
	} {
		p, f := settledMirror(at), rotation.PlacementFacts{Current: 2, Rule: rotation.DriftReport, Every: time.Hour}
		c.change(&p, &f)
		p.NextAt = at
		if got := p.Next(f, "me", at.Add(time.Second)).Effect == rotation.Place; got != c.want {
			t.Errorf("%s: written %t", name, got)
		}
	}
}

// What the vault serves is never taken out, whatever is said of its version.
func TestWhatIsTakenOut(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p := settledMirror(at)
	if h, fate := p.NextOut(map[int]rotation.Fate{2: rotation.FateDestroy}); fate != rotation.FateNone {
		t.Errorf("%+v is taken out", h)
	}
	h, fate := p.NextOut(map[int]rotation.Fate{1: rotation.FateRetire})
	if h.ID != "a" || fate != rotation.FateRetire {
		t.Errorf("%+v, %s", h, fate)
	}
	p.TookOut("a", rotation.FateRetire, at)
	if h, fate := p.NextOut(map[int]rotation.Fate{1: rotation.FateRetire}); fate != rotation.FateNone {
		t.Errorf("%+v is taken out twice", h)
	}
	p.Drift = &rotation.Drift{Kind: rotation.DriftMoved, ID: "a", Version: 1}
	if h, fate := p.NextOut(map[int]rotation.Fate{1: rotation.FateDestroy}); fate != rotation.FateNone {
		t.Errorf("%+v is taken out while the vault serves it", h)
	}
	p.Drift = nil
	if _, fate := p.NextOut(map[int]rotation.Fate{1: rotation.FateDestroy}); fate != rotation.FateDestroy {
		t.Errorf("%s", fate)
	}
	p.TookOut("a", rotation.FateDestroy, at)
	if len(p.Held) != 1 {
		t.Errorf("%+v", p.Held)
	}
}

// Our own staging is found as drift.
func TestOwnStagingIsNoDrift(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p := rotation.Placement{SecretID: "s", Backend: "aws"}
	p.Wanted(rotation.RolePrimary, 1, false, at)
	p.Placed(1, "a", 1, at)
	p.Compared(rotation.Found{ID: "a", At: at, Version: 1, Stages: stagesOf{"AWSCURRENT": "a", "AWSPENDING": "a"}}, 0, at, at.Add(time.Hour))
	p.Keeps(2, "b") // staged: PutSecretValue moves AWSPENDING
	p.Compared(rotation.Found{ID: "a", At: at, Version: 1, Stages: stagesOf{"AWSCURRENT": "a", "AWSPENDING": "b"}}, 0, at, at.Add(time.Hour))
	if p.Drift != nil {
		t.Errorf("while it is verified: %+v", p.Drift)
	}
	p.TookOut("b", rotation.FateRetire, at) // it failed
	p.Compared(rotation.Found{ID: "a", At: at, Version: 1, Stages: stagesOf{"AWSCURRENT": "a"}}, 0, at, at.Add(time.Hour))
	if p.Drift != nil {
		t.Errorf("after it failed: %+v", p.Drift)
	}
}

// A vault that may be written and not be described.
func TestAskedBlocksNoWrite(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p, f := settledMirror(at), rotation.PlacementFacts{Current: 3, Every: time.Hour}
	p.Wanted(rotation.RoleMirror, 3, true, at)
	p.CheckNow(at)
	for range 1000 {
		at = at.Add(5 * time.Minute)
		switch a := p.Next(f, "me", at); a.Effect {
		case rotation.Place:
			return
		case rotation.Compare:
			p.Failed("permission denied", at)
			p.Blind = true
		}
	}
	t.Errorf("the mirror is never written: it holds %d and wants %d", p.Have, p.Want)
}
