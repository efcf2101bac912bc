package daemon_test

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// TestASecretIsImported with its handle: nothing is written before the first
// rotation, which revokes what was imported and proves it dead.
func TestASecretIsImported(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl += operators + capabilitiesOf("owner", "list", "rotate", "update", "revoke")
	n := s.start()
	ctx := t.Context()
	_, err := n.Import(ctx, mailer, client.ImportRequest{})
	refused(t, "nothing in the vault", err, http.StatusNotFound, `"prod" holds no current version`)

	id, key := byHand(t, s.api)
	s.writeDirectly(t, map[string]any{"key": "an older one"})
	s.writeDirectly(t, map[string]any{"key": key, "user": "sender"})
	if repair := must(n.Repair(ctx, mailer, client.RepairRequest{DryRun: true}))(t); len(repair.Findings) != 1 || !strings.Contains(repair.Findings[0].Mend, "keybroker secret import mail/sender") {
		t.Errorf("a repair says %+v", repair)
	}
	ask := client.ImportRequest{Handle: map[string]string{"id": id}}
	for what, r := range map[string]client.ImportRequest{
		"has id, not name":      {Handle: map[string]string{"name": id}},
		`version "9"`:           {VersionHandles: map[string]map[string]string{"9": {"id": id}}},
		"its handle is missing": {Version: 1},
	} {
		_, err := n.Import(ctx, mailer, r)
		refused(t, what, err, http.StatusBadRequest, what)
	}
	_, err = n.Import(ctx, mailer, client.ImportRequest{Version: 1, Handle: ask.Handle})
	refused(t, "the handle of no version", err, http.StatusNotFound, "")

	// Who gives a handle may have revoked what it names.
	for policy, may := range map[string][2]bool{"reader": {}, "rotator": {}, "operator": {true, false}, "owner": {true, true}} {
		c, _ := s.as(n, client.CreateTokenRequest{Policies: []string{policy}})
		for i, r := range []client.ImportRequest{{}, ask} {
			r.DryRun = true
			if _, err := c.Import(ctx, mailer, r); (err == nil) != may[i] || !may[i] && client.Status(err) != http.StatusForbidden {
				t.Errorf("%s, with a handle %v: %v", policy, i == 1, err)
			}
		}
	}
	dry := ask
	dry.DryRun = true
	said := must(n.Import(ctx, mailer, dry))(t)
	last := client.ImportedVersion{BackendVersion: "2", Stage: client.StageCurrent, FieldNames: []string{"key", "user"}}
	if len(said.Versions) != 2 || said.Versions[0].BackendVersion != "1" || !said.Versions[0].HandleMissing {
		t.Fatalf("%+v", said)
	}
	if last.CreatedAt = said.Versions[1].CreatedAt; !reflect.DeepEqual(said.Versions[1], last) || last.CreatedAt.IsZero() {
		t.Errorf("%+v, want %+v", said.Versions[1], last)
	}
	if got := must(n.Secret(ctx, mailer))(t); len(got.Versions) != 0 {
		t.Fatal("a dry run imported it")
	}
	ask.Expect = []string{"something else"}
	_, err = n.Import(ctx, mailer, ask)
	refused(t, "what was not agreed to", err, http.StatusConflict, "it has changed meanwhile")
	ask.Expect = said.Will
	if did := must(n.Import(ctx, mailer, ask))(t); len(did.Versions) != 2 || did.Versions[1].Number != 2 {
		t.Errorf("%+v", did)
	}
	_, err = n.Import(ctx, mailer, client.ImportRequest{})
	refused(t, "again", err, http.StatusConflict, "keybroker drift adopt mail/sender")
	if v := n.value(t, mailer); v.Version != 2 || v.Fields["key"] != key || v.Fields["user"] != "sender" {
		t.Errorf("version %d", v.Version)
	}
	meta, err := s.vault.Client(t).KVv2("secret").GetMetadata(ctx, "keybroker/"+mailer)
	if err != nil || meta.CurrentVersion != 2 {
		t.Errorf("the import wrote to the vault: %v", err)
	}

	rot, retired := n.rotate(t, mailer)
	if rot.State != client.RotationDone || retired[2].State != client.ProvenDead || s.api.Works(key) || !s.api.Works(s.direct(t)) {
		t.Errorf("%s: %s; the imported version is %s and works: %v", rot.State, rot.Error, retired[2].State, s.api.Works(key))
	}
	if strings.Contains(s.log.String(), key) {
		t.Error("a value is in the log")
	}
	s.hcl = strings.Replace(s.hcl, `secret "mail/sender"`, `secret "mail/another"`, 1)
	must(n.Reload(ctx, client.ReloadRequest{}))(t)
	_, err = n.Import(ctx, mailer, client.ImportRequest{})
	refused(t, "unmanaged", err, http.StatusConflict, "unmanaged")
}

// TestAnImportWithoutAHandle: the broker says that it cannot revoke what it took
// over, and proves its death when somebody turns it off by hand, or gives the handle.
func TestAnImportWithoutAHandle(t *testing.T) {
	t.Parallel()
	for name, turn := range map[string]func(t *testing.T, s *vaultSite, n *node, id string){
		"turned off by hand": func(t *testing.T, s *vaultSite, _ *node, id string) { turnOff(t, s.api, id) },
		"the handle is given": func(t *testing.T, _ *vaultSite, n *node, id string) {
			dry := client.ImportRequest{Version: 1, Handle: map[string]string{"id": id}, InterventionRequest: client.InterventionRequest{DryRun: true}}
			said := must(n.Import(t.Context(), mailer, dry))(t)
			if len(said.Will) != 1 || !strings.Contains(said.Will[0], "id="+id) {
				t.Errorf("%+v", said)
			}
			if v := must(n.Secret(t.Context(), mailer))(t).Versions[0]; !v.HandleMissing {
				t.Fatal("a dry run gave the handle")
			}
			real := dry
			real.DryRun = false
			must(n.Import(t.Context(), mailer, real))(t)
			_, err := n.Import(t.Context(), mailer, real)
			refused(t, "again", err, http.StatusConflict, "the handle of version 1 is known")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newVaultSite(t)
			n := s.start()
			ctx := t.Context()
			id, key := byHand(t, s.api)
			s.writeDirectly(t, map[string]any{"key": key})
			must(n.Import(ctx, mailer, client.ImportRequest{}))(t)
			if v := must(n.Secret(ctx, mailer))(t).Versions[0]; !v.Foreign || !v.HandleMissing || v.Stage != client.StageCurrent {
				t.Errorf("%+v", v)
			}
			must(n.Rotate(ctx, mailer, client.RotateRequest{}))(t)
			var r client.Retirement
			eventually(t, "a retirement that waits for the handle", func() bool {
				list := must(n.Retirements(ctx, client.RetirementQuery{Secret: mailer}))(t).Items
				if len(list) == 0 {
					return false
				}
				r = must(n.Retirement(ctx, list[0].ID))(t)
				return r.WaitingFor == "handle" && tryCount(r, client.PurposeDeath, client.Accepted) > 0
			})
			if r.State != client.Unconfirmed || !strings.Contains(r.Error, "keybroker secret import mail/sender --version 1 --handle NAME=VALUE") || !s.api.Works(key) {
				t.Errorf("%+v", r)
			}
			turn(t, s, n, id)
			eventually(t, "the proof", func() bool {
				_, _ = n.Probe(ctx, r.ID, client.InterventionRequest{}) // it would be tried by itself
				return must(n.Retirement(ctx, r.ID))(t).State == client.ProvenDead
			})
			if s.api.Works(key) {
				t.Error("it works")
			}
		})
	}
}

// TestAnOlderImportedVersionIsRevoked, if somebody asks for it.
func TestAnOlderImportedVersionIsRevoked(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	n := s.start()
	ctx := t.Context()
	oldID, old := byHand(t, s.api)
	id, key := byHand(t, s.api)
	s.writeDirectly(t, map[string]any{"key": old})
	s.writeDirectly(t, map[string]any{"key": key})
	must(n.Import(ctx, mailer, client.ImportRequest{Handle: map[string]string{"id": id}, VersionHandles: map[string]map[string]string{"1": {"id": oldID}}}))(t)
	if !s.api.Works(old) {
		t.Fatal("the import revoked it")
	}
	r := must(n.Revoke(ctx, mailer, client.RevokeRequest{Version: 1}))(t)
	eventually(t, "the proof", func() bool { return must(n.Retirement(ctx, r.ID))(t).State == client.ProvenDead })
	if s.api.Works(old) || !s.api.Works(key) {
		t.Errorf("the old one works: %v, the current one: %v", s.api.Works(old), s.api.Works(key))
	}
}
