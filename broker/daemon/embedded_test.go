package daemon_test

import (
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

func startEmbedded(t *testing.T) (*site, *node, *consumer) {
	t.Helper()
	secret := newSigningSecret()
	c := newConsumer(t, secret)
	s := newSite(t, withConsumer(embedded, c))
	s.env["SIGNING_SECRET"] = secret.Reveal()
	return s, s.start(), c
}

func TestRotationEndsWithTheProof(t *testing.T) {
	t.Parallel()
	_, n, c := startEmbedded(t)
	first, _ := n.rotate(t, "app/key")
	if first.State != "done" || first.ToVersion != 1 {
		t.Fatalf("first rotation: %s, version %d, error %q", first.State, first.ToVersion, first.Error)
	}
	old := n.value(t, "app/key")
	second, retirements := n.rotate(t, "app/key")
	if second.State != client.RotationDone {
		t.Fatalf("second rotation: %s: %s", second.State, second.Error)
	}
	proof := retirements[1]
	if proof.State != client.ProvenDead || proof.Control != "current_version" || proof.ContainedAt.IsZero() || proof.ProvenAt.IsZero() || proof.LastAcceptedAt.IsZero() {
		t.Fatalf("proof: %+v", proof)
	}
	deaths := 0
	for _, try := range proof.Tries {
		if try.Purpose == client.PurposeDeath && try.Verdict == client.Rejected {
			deaths++
		}
	}
	if deaths < 3 {
		t.Errorf("%d rejections on record, want at least 3", deaths)
	}
	for _, step := range []string{"mint=ok", "verify=ok", "publish=ok", "push=ok", "acknowledge=ok", "overlap=ok", "revoke=ok", "contain=ok", "prove=ok"} {
		if !strings.Contains(stepsOf(second), step) {
			t.Errorf("timeline without %s: %s", step, stepsOf(second))
		}
	}
	now := n.value(t, "app/key")
	if now.Version != 2 || now.Generation != old.Generation+1 || now.Fields["key"] == old.Fields["key"] {
		t.Errorf("version %d generation %d", now.Version, now.Generation)
	}
	got, generation := c.key("app/key")
	if got != now.Fields["key"] || generation != now.Generation {
		t.Errorf("the consumer holds generation %d, want %d", generation, now.Generation)
	}
	for key, want := range map[string]bool{old.Fields["key"]: false, now.Fields["key"]: true} {
		check, err := n.CheckKey(t.Context(), client.SecretText(key))
		if err != nil || check.Active != want {
			t.Errorf("active %v (%v), want %v", check.Active, err, want)
		}
	}
}

func TestRestartInTheOverlapFinishesWithTheProof(t *testing.T) {
	t.Parallel()
	s, n, _ := startEmbedded(t)
	n.rotate(t, "app/key")
	r, err := n.Rotate(t.Context(), "app/key", client.RotateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the overlap", func() bool {
		now, err := n.Rotation(t.Context(), r.ID)
		return err == nil && now.State == "overlap"
	})
	n.stop()
	n = s.start()
	rot, retirements := n.follow(t, r.ID)
	if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead {
		t.Fatalf("%s, %s", rot.State, retirements[1].State)
	}
}

func TestEmergencyTurnsEverythingOff(t *testing.T) {
	t.Parallel()
	_, n, c := startEmbedded(t)
	n.rotate(t, "app/key")
	r, err := n.Rotate(t.Context(), "app/key", client.RotateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the overlap", func() bool {
		now, err := n.Rotation(t.Context(), r.ID)
		return err == nil && now.State == "overlap"
	})
	e, err := n.Emergency(t.Context(), "app/key", client.EmergencyRequest{Reason: "leaked"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := n.Emergency(t.Context(), "app/key", client.EmergencyRequest{Reason: "leaked"})
	if err != nil || again.ID != e.ID {
		t.Errorf("a second declaration began %s (%v), want %s", again.ID, err, e.ID)
	}
	rot, retirements := n.follow(t, e.ID)
	if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead || retirements[2].State != client.ProvenDead {
		t.Fatalf("%s: version 1 %s, version 2 %s", rot.State, retirements[1].State, retirements[2].State)
	}
	taken, err := n.Rotation(t.Context(), r.ID)
	if err != nil || taken.State != client.RotationSuperseded {
		t.Errorf("the rotation that was under way: %s (%v)", taken.State, err)
	}
	v := n.value(t, "app/key")
	if key, _ := c.key("app/key"); v.Version != 3 || key != v.Fields["key"] {
		t.Errorf("current version %d", v.Version)
	}
}

func TestEventsActOnceAndWithinTheirTrigger(t *testing.T) {
	t.Parallel()
	_, n, _ := startEmbedded(t)
	a, err := n.Event(t.Context(), "ci", client.EventRequest{ID: "e1", Secret: "app/key", Reason: "deploy"})
	if err != nil {
		t.Fatal(err)
	}
	if rot, _ := n.follow(t, a.ID); rot.Trigger != "event" || rot.Reason != "deploy" {
		t.Errorf("trigger %s, reason %q", rot.Trigger, rot.Reason)
	}
	b, err := n.Event(t.Context(), "ci", client.EventRequest{ID: "e1", Secret: "app/key", Reason: "test"})
	if err != nil || a.ID != b.ID {
		t.Errorf("a repeated event: %s (%v), want %s", b.ID, err, a.ID)
	}
	if _, err := n.Event(t.Context(), "nosuch", client.EventRequest{ID: "e2", Secret: "app/key", Reason: "test"}); client.Status(err) != 404 {
		t.Errorf("unknown trigger: %v", err)
	}
	e, err := n.Event(t.Context(), "scanner", client.EventRequest{ID: "e3", Secret: "app/key", Reason: "found on a paste site"})
	if err != nil || e.Trigger != "emergency" {
		t.Errorf("%s (%v)", e.Trigger, err)
	}
}

func TestPausedSecretsWait(t *testing.T) {
	t.Parallel()
	_, n, _ := startEmbedded(t)
	if _, err := n.Pause(t.Context(), "app/key", client.PauseRequest{Reason: "release"}); err != nil {
		t.Fatal(err)
	}
	r, err := n.Rotate(t.Context(), "app/key", client.RotateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "waiting for the pause", func() bool {
		now, err := n.Rotation(t.Context(), r.ID)
		return err == nil && now.State == "queued" && now.WaitingFor == "pause"
	})
	if _, err := n.Resume(t.Context(), "app/key"); err != nil {
		t.Fatal(err)
	}
	if rot, _ := n.follow(t, r.ID); rot.State != client.RotationDone {
		t.Fatalf("%s: %s", rot.State, rot.Error)
	}
}

func TestPoliciesAreEnforcedAndAudited(t *testing.T) {
	t.Parallel()
	s, n, _ := startEmbedded(t)
	n.rotate(t, "app/key")
	tok, err := n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "app", Policies: []string{"reader"}})
	if err != nil {
		t.Fatal(err)
	}
	reader := s.client(tok.Token.Reveal(), "http://"+s.addr)
	if _, err := reader.Value(t.Context(), "app/key", 0); err != nil {
		t.Errorf("reading: %v", err)
	}
	for what, err := range map[string]error{
		"rotate":    second(reader.Rotate(t.Context(), "app/key", client.RotateRequest{})),
		"emergency": second(reader.Emergency(t.Context(), "app/key", client.EmergencyRequest{Reason: "x"})),
		"other":     second(reader.Value(t.Context(), "other/key", 0)),
		"tokens":    second(reader.Tokens(t.Context(), client.Page{})),
		"escalate":  second(reader.CreateToken(t.Context(), client.CreateTokenRequest{Name: "x", Policies: []string{"root"}})),
	} {
		if client.Status(err) != 403 {
			t.Errorf("%s: %v, want 403", what, err)
		}
	}
	for token, want := range map[string]int{"": 401, "kbt_000000000000000000000000000000000000": 401, "nonsense": 401} {
		if _, err := s.client(token, "http://"+s.addr).Value(t.Context(), "app/key", 0); client.Status(err) != want {
			t.Errorf("token %q: %v, want %d", token, err, want)
		}
	}
	if _, err := n.RevokeToken(t.Context(), tok.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Value(t.Context(), "app/key", 0); client.Status(err) != 401 {
		t.Errorf("a revoked token: %v, want 401", err)
	}
	n.stop()
	log := s.read("data/audit.jsonl")
	for _, want := range []string{`"action":"secret.read"`, `"outcome":"denied"`, `"action":"rotation.publish"`, `"action":"auth.token"`, `"action":"token.create"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the audit log has no %s", want)
		}
	}
}

func second[T any](_ T, err error) error { return err }
