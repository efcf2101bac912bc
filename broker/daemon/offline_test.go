package daemon_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/broker/offline"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// responder is who has the key of the kits of a site.
type responder struct {
	*site
	key string
}

// withKit gives a site a block offline_kit, and somebody who can open what it makes.
func withKit(t *testing.T, s *site, more string) responder {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s.hcl += "\noffline_kit {\n  path       = \"kit.age\"\n  recipients = [\"" + id.Recipient().String() + "\"]\n  interval   = \"1s\"\n" + more + "}\n"
	return responder{s, id.String()}
}

func (r responder) path() string { return filepath.Join(r.dir, "kit.age") }

func (r responder) kit() *offline.Kit {
	r.t.Helper()
	kit, err := offline.Read(bytes.NewReader([]byte(r.read("kit.age"))), strings.NewReader(r.key))
	if err != nil {
		r.t.Fatal(err)
	}
	return kit
}

// keeps waits until the file knows of a version.
func (r responder) keeps(t *testing.T, secret string, version int) {
	t.Helper()
	eventually(t, "the kit has the version", func() bool {
		if _, err := os.Stat(r.path()); err != nil {
			return false
		}
		for _, s := range r.kit().Secrets {
			if s.Name == secret && s.Current == version {
				return true
			}
		}
		return false
	})
}

// revoke is one run of `keybroker offline revoke`.
func (r responder) revoke(ctx context.Context, kit *offline.Kit, choice offline.Choice, credentials map[string]string, open func(context.Context, offline.Issuer) (issuer.Issuer, func(), error)) []offline.Outcome {
	r.t.Helper()
	items, err := kit.Choose(choice)
	if err != nil {
		r.t.Fatal(err)
	}
	shop, err := daemon.NewWorkshop(kit, credentials, hclog.NewNullLogger())
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() {
		if err := shop.Close(); err != nil {
			r.t.Error(err)
		}
	}()
	journal, err := offline.OpenJournal(r.path()+offline.JournalSuffix, offline.Record{At: time.Now(), Installation: kit.Installation, KitMadeAt: kit.MadeAt, Reason: "leaked at night", By: "ana", Host: "laptop"})
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() {
		if err := journal.Close(); err != nil {
			r.t.Error(err)
		}
	}()
	if open == nil {
		open = shop.Issuer
	}
	out, err := (&offline.Revoker{Kit: kit, Journal: journal, Open: open, Now: time.Now}).Revoke(ctx, items)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// handIn is what `keybroker offline return` sends.
func (r responder) handIn() client.OfflineReturn {
	r.t.Helper()
	j, err := offline.ReadJournal(r.path() + offline.JournalSuffix)
	if err != nil {
		r.t.Fatal(err)
	}
	back := client.OfflineReturn{ID: j.ID, Installation: j.Installation, Reason: j.Reason, By: j.By, Host: j.Host, KitMadeAt: j.KitMadeAt, From: j.From, To: j.To}
	for _, v := range j.Versions {
		back.Versions = append(back.Versions, client.OfflineVersion{Secret: v.Ref.Tenant + ":" + v.Ref.Name, Version: v.Version, Last: v.Last, At: v.At, Result: v.Result, Error: v.Error})
	}
	return back
}

func newResponder(t *testing.T, more string) (responder, *keyserver.Server) {
	s, api := newMailer(t)
	s.adjust = func(o *daemon.Options) { o.LookForAlerts(100 * time.Millisecond) }
	return withKit(t, s, more), api
}

const sender = "mail/sender"

// A key leaks while the broker is down: it is dead with nothing but the kit and its key,
// and once the broker is back it is proven so, and replaced.
func TestWhatLeaksWhileTheBrokerIsDownIsContained(t *testing.T) {
	t.Parallel()
	r, api := newResponder(t, "")
	n := r.start()
	n.done(t, sender)
	leaked := n.value(t, sender)
	r.keeps(t, sender, 1)
	n.stop()

	out := r.revoke(t.Context(), r.kit(), offline.Choice{Names: []string{sender}}, nil, nil)
	if len(out) != 1 || out[0].Result != offline.Revoked || out[0].Version != 1 {
		t.Fatalf("%+v", out)
	}
	eventually(t, "the issuer refuses it", func() bool { return !api.Works(leaked.Fields["key"]) })
	asked := api.Requests("DELETE /v1/keys/{id}")
	if again := r.revoke(t.Context(), r.kit(), offline.Choice{All: true}, nil, nil); !again[0].Before || api.Requests("DELETE /v1/keys/{id}") != asked {
		t.Errorf("once more: %+v", again)
	}

	n = r.start()
	eventually(t, "somebody is told of the journal", func() bool { return len(n.openAlerts(t, "offline_return_wanted")) == 1 })
	back := r.handIn()
	i, err := n.OfflineReturn(t.Context(), back)
	if err != nil || i.Cause != "offline" || i.Contain != client.RevokeFirst || len(i.Targets) != 1 || len(i.Targets[0].Pinned) != 1 || i.Targets[0].Pinned[0] != 1 {
		t.Fatalf("%+v: %v", i, err)
	}
	if len(i.Notes) != 1 || !strings.Contains(i.Notes[0].Text, "by ana on laptop") {
		t.Errorf("notes: %+v", i.Notes)
	}
	if same, err := n.OfflineReturn(t.Context(), back); err != nil || same.ID != i.ID || same.ID != back.ID {
		t.Errorf("handed in again: %s, %v", same.ID, err)
	}
	eventually(t, "it is proven dead and replaced", func() bool {
		now := must(n.Incident(t.Context(), i.ID))(t)
		return now.Progress.AllProven() && now.Progress.Replaced == 1
	})
	if key := n.value(t, sender).Fields["key"]; key == leaked.Fields["key"] || !api.Works(key) {
		t.Error("the application has no replacement that works")
	}
	eventually(t, "the end of the alert", func() bool { return len(n.openAlerts(t, "offline_return_wanted")) == 0 })

	other := back
	other.Installation = "another"
	if _, err := n.OfflineReturn(t.Context(), other); client.Status(err) != http.StatusConflict {
		t.Errorf("of another installation: %v", err)
	}
	other = back
	other.ID, other.Versions = "7d43aa6d-a89c-5425-a75e-dfdf5365ba5b", []client.OfflineVersion{{Secret: "nobody/knows", Version: 1}}
	if _, err := n.OfflineReturn(t.Context(), other); client.Status(err) != http.StatusNotFound {
		t.Errorf("of a secret that there is not: %v", err)
	}
}

// The kit has what the issuers log in with, and no value of a secret that is managed.
func TestTheKitHasNoValueOfAManagedSecret(t *testing.T) {
	t.Parallel()
	r, api := newResponder(t, "")
	n := r.start()
	n.done(t, sender)
	n.rotate(t, sender)
	r.keeps(t, sender, 2)
	var pulled bytes.Buffer
	if err := n.OfflineKit(t.Context(), &pulled); err != nil {
		t.Fatal(err)
	}
	kit, err := offline.Read(&pulled, strings.NewReader(r.key))
	if err != nil || kit.Installation == "" || len(kit.Secrets) == 0 || kit.Issuers[0].Material.Env["MAILER_CLIENT_SECRET"] != api.ClientSecret {
		t.Fatalf("%v", err)
	}
	for what, k := range map[string]*offline.Kit{"pulled": kit, "kept": r.kit()} {
		text, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range api.Secrets() {
			for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value)), base64.RawStdEncoding.EncodeToString([]byte(value))} {
				if bytes.Contains(text, []byte(form)) {
					t.Errorf("the kit that was %s has a value", what)
				}
			}
		}
	}
	if info, err := os.Stat(r.path()); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if strings.Contains(r.log.String(), api.ClientSecret) {
		t.Error("the log has a credential")
	}
}

// Without credentials in the kit the responder's own are taken.
func TestAKitWithoutCredentials(t *testing.T) {
	t.Parallel()
	r, api := newResponder(t, "  credentials = false\n")
	n := r.start()
	n.done(t, sender)
	key := n.value(t, sender).Fields["key"]
	r.keeps(t, sender, 1)
	n.stop()
	kit := r.kit()
	if text := string(must(json.Marshal(kit))(t)); strings.Contains(text, api.ClientSecret) {
		t.Fatal("it has credentials")
	}
	out := r.revoke(t.Context(), kit, offline.Choice{All: true}, nil, nil)
	if out[0].Result != offline.Open || !strings.Contains(out[0].Error, "MAILER_CLIENT_SECRET") && !strings.Contains(out[0].Error, "environment") || !strings.Contains(out[0].ByHand, "mailer") {
		t.Fatalf("%+v", out)
	}
	block := filepath.Join(t.TempDir(), "mailer.hcl")
	if err := os.WriteFile(filepath.Join(filepath.Dir(block), "client"), []byte(api.ClientSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(block, []byte(strings.Replace(kit.Issuers[0].Source, `env("MAILER_CLIENT_SECRET")`, `file("client")`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	out = r.revoke(t.Context(), kit, offline.Choice{All: true}, map[string]string{kit.Issuers[0].Name: block}, nil)
	if out[0].Result != offline.Revoked {
		t.Fatalf("%+v", out)
	}
	eventually(t, "the issuer refuses it", func() bool { return !api.Works(key) })
}

// What happened since the kit was made is told when the journal is handed in.
func TestAReturnOfAnOldKit(t *testing.T) {
	t.Parallel()
	r, api := newResponder(t, "")
	n := r.start()
	n.done(t, sender)
	r.keeps(t, sender, 1)
	old := r.kit()
	rot, _ := n.rotate(t, sender)
	if rot.State != client.RotationDone {
		t.Fatalf("%+v", rot)
	}
	current := n.value(t, sender)
	r.revoke(t.Context(), old, offline.Choice{Issuer: old.Issuers[0].Name}, nil, nil)
	if !api.Works(current.Fields["key"]) {
		t.Fatal("the newer version was revoked")
	}
	i, err := n.OfflineReturn(t.Context(), r.handIn())
	if err != nil {
		t.Fatal(err)
	}
	told := false
	for _, c := range i.Checklist {
		told = told || strings.Contains(c.Text, "the kit was older than version 2 of mail/sender")
	}
	if !told {
		t.Errorf("checklist: %+v", i.Checklist)
	}
	eventually(t, "it is proven", func() bool { return must(n.Incident(t.Context(), i.ID))(t).Progress.AllProven() })
	if v := n.value(t, sender); v.Version != current.Version {
		t.Errorf("version %d was replaced without need", current.Version)
	}
}

// An issuer that does not answer leaves what it made open, which the same command goes on
// with; and so does one after a crash between the intent and its result.
func TestOfflineRevocationGoesOn(t *testing.T) {
	t.Parallel()
	r, api := newResponder(t, "")
	n := r.start()
	n.done(t, sender)
	key := n.value(t, sender).Fields["key"]
	r.keeps(t, sender, 1)
	n.stop()
	api.Override("DELETE /v1/keys/{id}", http.StatusServiceUnavailable, -1)
	if out := r.revoke(t.Context(), r.kit(), offline.Choice{All: true}, nil, nil); out[0].Result != offline.Open || !api.Works(key) {
		t.Fatalf("%+v", out)
	}
	api.Override("DELETE /v1/keys/{id}", 0, 0)
	journal := r.path() + offline.JournalSuffix
	text := r.read("kit.age.journal")
	if err := os.WriteFile(journal, []byte(text[:strings.LastIndex(text, `{"at"`)]+`{"at":"20`), 0o600); err != nil { // the crash, with half a line
		t.Fatal(err)
	}
	if back := r.handIn(); len(back.Versions) != 1 || back.Versions[0].Result != "" {
		t.Errorf("an intent without a result: %+v", back)
	}
	if out := r.revoke(t.Context(), r.kit(), offline.Choice{All: true}, nil, nil); out[0].Result != offline.Revoked || out[0].Before {
		t.Fatalf("%+v", out)
	}
	eventually(t, "the issuer refuses it", func() bool { return !api.Works(key) })
}

// A kit that cannot be written is told of, and the last good one stays.
func TestAKitThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	r, _ := newResponder(t, "")
	r.hcl = strings.Replace(r.hcl, `"kit.age"`, `"there/kit.age"`, 1)
	n := r.start()
	eventually(t, "somebody is told", func() bool { return len(n.openAlerts(t, "offline_kit_stale")) == 1 })
	if err := os.Mkdir(filepath.Join(r.dir, "there"), 0o700); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the alert", func() bool { return len(n.openAlerts(t, "offline_kit_stale")) == 0 })
	kit, err := os.ReadFile(filepath.Join(r.dir, "there", "kit.age"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := offline.Read(bytes.NewReader(kit), strings.NewReader(other.String())); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("with another key: %v", err)
	}
}

// Anybody can encrypt a kit to a key that is known: no program runs that it names.
func TestAKitRunsNoProgram(t *testing.T) {
	t.Parallel()
	ran := filepath.Join(t.TempDir(), "ran")
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\ntouch "+ran+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	i := offline.Issuer{Name: "mine", Type: "exec", Source: "issuer \"exec\" \"mine\" {\n  command = [\"" + program + "\"]\n}\n"}
	kit := &offline.Kit{Header: offline.Header{Credentials: true}, Issuers: []offline.Issuer{i}}
	shop, err := daemon.NewWorkshop(kit, nil, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	is, _, err := shop.Issuer(t.Context(), i)
	if is != nil || !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "--credential mine=FILE") {
		t.Errorf("%v", err)
	}
	if err := shop.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.NewWorkshop(kit, map[string]string{"other": "x"}, hclog.NewNullLogger()); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("a block of an issuer that there is not: %v", err)
	}
}

// What an issuer logs in with lies nowhere once a revocation is over.
func TestAWorkshopLeavesNothing(t *testing.T) {
	shared := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", shared)
	i := offline.Issuer{Name: "mailer", Type: "http", Managed: []string{"mail/admin"}, Material: offline.Material{Files: map[string][]byte{"token": []byte("x")}}}
	kit := &offline.Kit{Header: offline.Header{Credentials: true}, Issuers: []offline.Issuer{i}}
	shop, err := daemon.NewWorkshop(kit, nil, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := shop.Issuer(t.Context(), i); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "mail/admin") {
		t.Errorf("with a managed login: %v", err)
	}
	i.Managed = nil
	if _, _, err := shop.Issuer(t.Context(), i); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("of no block: %v", err)
	}
	if err := shop.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(shared); err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
