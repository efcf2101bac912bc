package daemon_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// newMirroredSite has the secret in the local backend, and Vault as its mirror.
func newMirroredSite(t *testing.T, overlap string) *vaultSite {
	t.Helper()
	s := newVaultSite(t)
	s.hcl = strings.NewReplacer(
		`overlap = "2s"`, "overlap = \""+overlap+"\"\n  limits {\n    max_overlap = \"10m\"\n  }\n  confirm {\n    rejections = 2\n    window     = \"500ms\"\n  }",
		"  backend = \"prod\"\n", "  backend = \"main\"\n  mirrors = [\"prod\"]\n").Replace(s.hcl) + operators + "\nbackend \"local\" \"main\" {}\n"
	return s
}

// mirror returns how the mirror of the secret stands.
func (n *node) mirror(t *testing.T) client.Mirror {
	t.Helper()
	s := must(n.Secret(t.Context(), mailer))(t)
	if len(s.Mirrors) != 1 {
		t.Fatalf("it has the mirrors %+v", s.Mirrors)
	}
	return s.Mirrors[0]
}

// TestAMirrorThatWasDownIsCaughtUp: it holds no rotation up but the revocation of
// what it still serves, and is brought straight to the newest version.
func TestAMirrorThatWasDownIsCaughtUp(t *testing.T) {
	t.Parallel()
	s := newMirroredSite(t, brief)
	n := s.start()
	ctx := t.Context()
	if m := n.mirror(t); m.State != client.StateUnknown || m.Backend != "prod" {
		t.Errorf("before the first version: %+v", m)
	}
	n.done(t, mailer)
	eventually(t, "the mirror", func() bool { return n.mirror(t).State == client.InStep })
	old := s.direct(t)
	if old != n.value(t, mailer).Fields["key"] {
		t.Fatal("the mirror holds another value")
	}
	plan := must(n.Plan(ctx, mailer))(t)
	for step, words := range map[string]string{"publish": "then brought to: prod", "overlap": "until the mirrors hold it, at most 10m0s"} {
		if !slices.ContainsFunc(plan.Steps, func(e client.Expected) bool { return e.Step == step && strings.Contains(e.Detail, words) }) {
			t.Errorf("the plan says nothing of %q: %+v", words, plan.Steps)
		}
	}

	s.vault.Seal(t)
	r := must(n.Rotate(ctx, mailer, client.RotateRequest{}))(t)
	eventually(t, "a rotation that waits for its mirror", func() bool {
		now := must(n.Rotation(ctx, r.ID))(t)
		return now.WaitingFor == "mirror"
	})
	if m := n.mirror(t); m.State != client.Behind || m.Version != 1 {
		t.Errorf("while it is down: %+v", m)
	}
	list := must(n.Placements(ctx, client.DriftQuery{Backend: "prod"}))(t).Items
	if len(list) != 1 || list[0].State != client.Behind || list[0].Role != client.RoleMirror || list[0].WantedVersion != 2 || list[0].HeldVersion != 1 {
		t.Errorf("%+v", list)
	}
	if others := must(n.Placements(ctx, client.DriftQuery{Backend: "main"}))(t).Items; len(others) != 0 {
		t.Errorf("in step is %+v", others)
	}
	why := must(n.Plan(ctx, mailer))(t).WhyNot
	if !slices.ContainsFunc(why, func(b client.Blocker) bool {
		return b.WaitingFor == "mirror" && strings.Contains(b.Detail, "mirror prod is behind") && b.Mend == "`keybroker drift list --secret mail/sender`"
	}) {
		t.Errorf("the plan says %+v", why)
	}
	if now := n.value(t, mailer); now.Version != 2 || !s.api.Works(old) {
		t.Errorf("the broker gives version %d, and what the mirror holds works: %v", now.Version, s.api.Works(old))
	}
	s.vault.Unseal(t)
	must(n.CheckDrift(ctx, mailer, client.CheckDriftRequest{}))(t) // it would be tried again by itself
	rot, retired := n.follow(t, r.ID)
	if rot.State != client.RotationDone || retired[1].State != client.ProvenDead {
		t.Errorf("%s: %s; version 1 is %s", rot.State, rot.Error, retired[1].State)
	}
	if m := n.mirror(t); m.State != client.InStep || m.Version != 2 || s.direct(t) != n.value(t, mailer).Fields["key"] {
		t.Errorf("it is caught up: %+v", m)
	}
}

// TestAMirrorIsRestoredAndAdoptedFrom, as the primary is.
func TestAMirrorIsRestoredAndAdoptedFrom(t *testing.T) {
	t.Parallel()
	s := newMirroredSite(t, brief)
	n := s.start()
	ctx := t.Context()
	n.done(t, mailer)
	eventually(t, "the mirror", func() bool { return n.mirror(t).State == client.InStep })
	key := s.direct(t)
	s.writeDirectly(t, map[string]any{"key": "a stranger's"})
	compared(t, n.Client, mailer)
	if m := n.mirror(t); m.State != client.Drifted {
		t.Fatalf("%+v", m)
	}
	_, err := n.AdoptDrift(ctx, mailer, client.DriftRequest{}) // of the primary
	refused(t, "the primary", err, http.StatusConflict, "main")
	must(n.RestoreDrift(ctx, mailer, client.DriftRequest{Backend: "prod"}))(t)
	if s.direct(t) != key || n.mirror(t).State != client.InStep {
		t.Error("it is not restored")
	}

	_, theirs := byHand(t, s.api)
	s.writeDirectly(t, map[string]any{"key": theirs})
	compared(t, n.Client, mailer)
	alice, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"rotator"}})
	bob, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"approver"}})
	asked := must(alice.AdoptDrift(ctx, mailer, client.DriftRequest{Backend: "prod"}))(t)
	must(bob.Approve(ctx, asked.Rotation.ID, client.InterventionRequest{}))(t)
	rot, retired := n.follow(t, asked.Rotation.ID)
	if rot.State != client.RotationDone || retired[1].State != client.ProvenDead || n.value(t, mailer).Fields["key"] != theirs {
		t.Errorf("%s: %s; version 1 is %s", rot.State, rot.Error, retired[1].State)
	}
	if m := n.mirror(t); m.State != client.InStep || m.Version != 2 || s.direct(t) != theirs {
		t.Errorf("the mirror that had it: %+v", m)
	}
}

// TestAMirrorIsAddedAndTakenAway by a reload: it is given the current version at
// once, and keeps what it has.
func TestAMirrorIsAddedAndTakenAway(t *testing.T) {
	t.Parallel()
	s := newMirroredSite(t, brief)
	with := s.hcl
	s.hcl = strings.Replace(with, "  mirrors = [\"prod\"]\n", "", 1)
	without := s.hcl
	n := s.start()
	ctx := t.Context()
	n.done(t, mailer)
	s.hcl = with
	must(n.Reload(ctx, client.ReloadRequest{}))(t)
	eventually(t, "the new mirror", func() bool { return n.mirror(t).State == client.InStep })
	key := n.value(t, mailer).Fields["key"]
	if s.direct(t) != key {
		t.Error("it holds another value")
	}
	s.hcl = without
	must(n.Reload(ctx, client.ReloadRequest{}))(t)
	if m := must(n.Secret(ctx, mailer))(t).Mirrors; len(m) != 0 || s.direct(t) != key {
		t.Errorf("it has the mirrors %+v", m)
	}
	all := must(n.Placements(ctx, client.DriftQuery{Secret: mailer, Backend: "prod", All: true}))(t).Items
	if len(all) != 1 || all[0].Role != client.RoleFormer || all[0].State != client.InStep {
		t.Errorf("%+v", all)
	}
	if got := compared(t, n.Client, mailer); len(got) != 2 { // what is no mirror any more is not compared
		t.Errorf("%+v", got)
	}
	_, err := n.RestoreDrift(ctx, mailer, client.DriftRequest{Backend: "prod"})
	refused(t, "a former mirror", err, http.StatusNotFound, `keeps no version of it in "prod"`)
}
