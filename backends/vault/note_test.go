package vault_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
)

// rights is what a driver needs, and patch on the metadata of the team "noted".
const rights = `
path "%[1]s/data/keybroker/*"           { capabilities = ["create", "update", "read"] }
path "%[1]s/metadata/keybroker/*"       { capabilities = ["read"] }
path "%[1]s/metadata/keybroker/noted/*" { capabilities = ["read", "patch"] }`

func TestNoteIsGivenUpPerSecretAndForAnHour(t *testing.T) {
	s := vaultserver.Shared(t)
	mount, p := s.KV(t), faultproxy.New(t, s.Addr)
	allow := func(rules string) {
		t.Helper()
		if err := s.Client(t).Sys().PutPolicyWithContext(t.Context(), mount, fmt.Sprintf(rules, mount)); err != nil {
			t.Fatal(err)
		}
	}
	allow(rights)
	token, err := s.Client(t).Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{mount}})
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, config(p.URL, token.Auth.ClientToken, mount))
	now := time.Now()
	d.SetNow(func() time.Time { return now })

	var patches atomic.Int32
	p.Set(faultproxy.Rule{Match: func(r *http.Request) bool {
		if r.Method == http.MethodPatch {
			patches.Add(1)
		}
		return false
	}})
	last := map[string]backends.VersionID{}
	publish := func(name string, n int) backends.Note {
		t.Helper()
		ref := backends.Ref{Tenant: ref.Tenant, Name: name}
		id, err := d.Publish(t.Context(), ref, write(n, last[name]))
		if err != nil {
			t.Fatal(err)
		}
		last[name] = id
		desc, err := d.Describe(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		return desc.Note
	}
	for n := 1; n <= 3; n++ {
		if note := publish("other/key", n); note != (backends.Note{}) {
			t.Fatalf("noted %+v without the right to", note)
		}
		if note := publish("noted/key", n); note.Version != n {
			t.Errorf("noted %+v, where it is allowed", note)
		}
	}
	if n := patches.Load(); n != 4 {
		t.Errorf("asked %d times, want once for what is refused and three times for what is not", n)
	}
	allow(`path "%s/*" { capabilities = ["create", "update", "read", "patch"] }`)
	if note := publish("other/key", 4); note != (backends.Note{}) {
		t.Errorf("noted %+v within the hour", note)
	}
	now = now.Add(time.Hour)
	if note := publish("other/key", 5); note.Version != 5 {
		t.Errorf("noted %+v after the hour", note)
	}
}

// A caller who has no time left has his version, and it has its note.
func TestNoteHasATimeOfItsOwn(t *testing.T) {
	s := vaultserver.Shared(t)
	mount, p := s.KV(t), faultproxy.New(t, s.Addr)
	d := open(t, config(p.URL, s.RootToken, mount))
	ctx, cancel := context.WithCancel(t.Context())
	p.Set(faultproxy.Rule{Fault: faultproxy.Latency(100 * time.Millisecond), Match: func(r *http.Request) bool {
		if r.Method == http.MethodPatch {
			cancel() // a request of his would not be passed on now
		}
		return r.Method == http.MethodPatch
	}})
	if _, err := d.Publish(ctx, ref, write(1, "")); err != nil {
		t.Fatal(err)
	}
	if desc, err := d.Describe(t.Context(), ref); err != nil || desc.Note.Version != 1 {
		t.Errorf("described as %+v, %v", desc, err)
	}
	p.Set(faultproxy.Rule{Fault: faultproxy.Latency(time.Hour), Match: func(r *http.Request) bool { return r.Method == http.MethodPatch }})
	if _, err := d.Publish(t.Context(), ref, write(2, "1")); err != nil { // or the test never ends
		t.Error(err)
	}
}
