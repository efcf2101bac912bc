package vault_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vault"
)

// path is where ref is under config's prefix.
const path = "keybroker/payments/stripe"

// configure sets what an operator may set for a mount of KV v2.
func configure(t *testing.T, s *vaultserver.Server, mount string, settings map[string]any) {
	t.Helper()
	if _, err := s.Client(t).Logical().WriteWithContext(t.Context(), mount+"/config", settings); err != nil {
		t.Fatal(err)
	}
}

func TestMountThatRequiresCheckAndSet(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	configure(t, s, mount, map[string]any{"cas_required": true})
	if _, err := s.Client(t).KVv2(mount).Put(t.Context(), path, map[string]any{"a": "b"}); err == nil {
		t.Fatal("the mount takes writes without check-and-set")
	}
	d := open(t, config(s.Addr, s.RootToken, mount))
	publish(t, d, 2, publish(t, d, 1, ""))
}

func TestMountThatKeepsOneVersion(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	configure(t, s, mount, map[string]any{"max_versions": 1})
	d := open(t, config(s.Addr, s.RootToken, mount))
	first := publish(t, d, 1, "")
	second := publish(t, d, 2, first)
	if _, _, err := d.Read(t.Context(), ref, first); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("reading a version that was pushed out: %v", err)
	}
	// Nothing is left to take away, which is what was wanted.
	if err := errors.Join(d.Retire(t.Context(), ref, first), d.Destroy(t.Context(), ref, first)); err != nil {
		t.Error(err)
	}
	desc, err := d.Describe(t.Context(), ref)
	if err != nil || desc.Current != second || len(desc.Versions) != 1 {
		t.Errorf("described as %+v, %v", desc, err)
	}
	if _, err := d.Publish(t.Context(), ref, write(3, first)); !errors.Is(err, backends.ErrConflict) {
		t.Errorf("publishing over a version that was pushed out: %v", err)
	}
}

func TestMountThatDeletesVersions(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	configure(t, s, mount, map[string]any{"delete_version_after": "1s"})
	var log strings.Builder
	d, err := vault.Open(t.Context(), config(s.Addr, s.RootToken, mount), hclog.New(&hclog.LoggerOptions{Output: &log}))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	first := publish(t, d, 1, "")
	if !strings.Contains(log.String(), "delete_version_after") || strings.Contains(log.String(), backendtest.Canary) {
		t.Errorf("the log does not warn, or says too much: %s", log.String())
	}
	if desc, err := d.Describe(t.Context(), ref); err != nil || desc.Current != first || desc.Versions[0].Gone {
		t.Errorf("at first described as %+v, %v", desc, err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, _, err := d.Read(t.Context(), ref, "")
		if errors.Is(err, backends.ErrNotFound) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the version is not deleted: %v", err)
		}
	}
	if desc, err := d.Describe(t.Context(), ref); err != nil || desc.Current != "" || !desc.Versions[0].Gone {
		t.Errorf("in the end described as %+v, %v", desc, err)
	}
	publish(t, d, 2, "") // nothing is current
}

// What is retired can be had back by an operator; what is destroyed cannot.
func TestRetiredIsDeletedAndCanBeUndeleted(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	d := open(t, config(s.Addr, s.RootToken, mount))
	first := publish(t, d, 1, "")
	publish(t, d, 2, first)
	if err := d.Retire(t.Context(), ref, first); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Read(t.Context(), ref, first); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("reading what was retired: %v", err)
	}
	if desc, err := d.Describe(t.Context(), ref); err != nil || !desc.Versions[0].Gone {
		t.Errorf("described as %+v, %v", desc, err)
	}
	if err := s.Client(t).KVv2(mount).Undelete(t.Context(), path, []int{1}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Read(t.Context(), ref, first); err != nil {
		t.Errorf("reading what was undeleted: %v", err)
	}
}

func TestNote(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	kv, d := s.Client(t).KVv2(mount), open(t, config(s.Addr, s.RootToken, mount))
	note := func() backends.Note {
		t.Helper()
		desc, err := d.Describe(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		return desc.Note
	}
	if _, err := kv.Put(t.Context(), path, map[string]any{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	if got := note(); got != (backends.Note{}) {
		t.Errorf("a secret of somebody else's has the note %+v", got)
	}
	publish(t, d, 2, "1")
	want := backends.Note{Of: "2", Version: 2, Generation: 20}
	if got := note(); got != want {
		t.Errorf("noted %+v, want %+v", got, want)
	}
	// Behind the broker's back: the note stays about what the broker wrote.
	if _, err := kv.Put(t.Context(), path, map[string]any{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	if got := note(); got != want {
		t.Errorf("noted %+v, want %+v", got, want)
	}
	patch := api.KVMetadataPatchInput{CustomMetadata: map[string]any{"keybroker_generation": "many"}}
	if err := kv.PatchMetadata(t.Context(), path, patch); err != nil {
		t.Fatal(err)
	}
	if got := note(); got != (backends.Note{}) {
		t.Errorf("noted %+v, where somebody has changed it", got)
	}
}

// A secret with no room for ours is no reason to stop writing notes.
func TestNoteThatDoesNotFit(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	full := map[string]any{}
	for i := range 64 { // Vault's limit
		full[fmt.Sprintf("key-%d", i)] = "x"
	}
	kv, d := s.Client(t).KVv2(mount), open(t, config(s.Addr, s.RootToken, mount))
	if err := kv.PutMetadata(t.Context(), path, api.KVMetadataPutInput{CustomMetadata: full}); err != nil {
		t.Fatal(err)
	}
	publish(t, d, 1, "")
	other := backends.Ref{Tenant: ref.Tenant, Name: "other"}
	id, err := d.Publish(t.Context(), other, write(1, ""))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := d.Describe(t.Context(), other)
	if err != nil || desc.Note.Of != id {
		t.Errorf("the next secret is described as %+v, %v", desc, err)
	}
}

// The core's storage takes entries of up to 1 MiB, like Vault's integrated storage.
func TestSizesUpToTheServersOwn(t *testing.T) {
	s := vaultserver.Shared(t)
	cfg := config(s.Addr, s.RootToken, s.KV(t))
	cfg.MaxValueSize = 2 << 20 // more than the server has
	d := open(t, cfg)
	put := func(size int, expect backends.VersionID) (backends.VersionID, error) {
		text := strings.Repeat(backendtest.Canary, size/len(backendtest.Canary))
		return d.Publish(t.Context(), ref, backends.Write{Value: backends.NewValue(map[string]string{"large": text}), Expect: expect})
	}
	first, err := put(1<<20-1<<10, "")
	if err != nil {
		t.Fatalf("just below the server's limit: %v", err)
	}
	_, err = put(1<<20, first)
	if !errors.Is(err, backends.ErrInvalid) || strings.Contains(fmt.Sprint(err), backendtest.Canary) {
		t.Errorf("above the server's limit: %.200v", err)
	}
	if _, id, err := d.Read(t.Context(), ref, ""); err != nil || id != first {
		t.Errorf("current is %q, %v", id, err)
	}
}

func TestVersion1IsReadUnderOneID(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KVv1(t)
	cfg := config(s.Addr, s.RootToken, mount)
	cfg.KVVersion = 1
	d := open(t, cfg)
	kv := s.Client(t).KVv1(mount)
	var ids []backends.VersionID
	for _, port := range []int{5432, 5433} {
		if err := kv.Put(t.Context(), path, map[string]any{"port": port, "host": "db"}); err != nil {
			t.Fatal(err)
		}
		v, id, err := d.Read(t.Context(), ref, "")
		if err != nil || !v.Equal(backends.NewValue(map[string]string{"port": fmt.Sprint(port), "host": "db"})) {
			t.Errorf("read version %q or another value: %v", id, err)
		}
		ids = append(ids, id)
	}
	if ids[0] != ids[1] {
		t.Errorf("the ids are %q", ids)
	}
	if _, _, err := d.Read(t.Context(), ref, ids[0]); err != nil {
		t.Errorf("reading by id: %v", err)
	}
	if err := d.Retire(t.Context(), ref, ids[0]); !errors.Is(err, backends.ErrUnsupported) {
		t.Errorf("retiring: %v", err)
	}
}

// A mount that is of the other version than the block says gives nothing away, and
// is never taken for an empty one that may be written to.
func TestMountOfTheOtherVersion(t *testing.T) {
	s := vaultserver.Shared(t)
	one, two := s.KVv1(t), s.KV(t)
	if err := s.Client(t).KVv1(one).Put(t.Context(), path, map[string]any{"a": backendtest.Canary}); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, config(s.Addr, s.RootToken, one)).Publish(t.Context(), ref, write(1, ""))
	if !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("publishing where there is no check-and-set: %v", err)
	}
	if _, err := s.Client(t).KVv1(one).Get(t.Context(), "data/"+path); err == nil {
		t.Error("the value was written to another path")
	}
	cfg := config(s.Addr, s.RootToken, two)
	cfg.KVVersion = 1
	publish(t, open(t, config(s.Addr, s.RootToken, two)), 1, "")
	if _, _, err := open(t, cfg).Read(t.Context(), ref, ""); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("reading version 2 as version 1: %v", err)
	}
}

func TestRestartedServerKeepsVersions(t *testing.T) {
	s := vaultserver.StartDurable(t)
	d, err := vault.Open(t.Context(), config(s.Addr, s.RootToken, "secret"), hclog.New(&hclog.LoggerOptions{Output: io.Discard}))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	mount := backends.NewMount("prod", d, backends.Options{})
	id := backends.VersionID("")
	for n := 1; n <= 3; n++ {
		if id, err = mount.Publish(t.Context(), ref, write(n, id)); err != nil {
			t.Fatal(err)
		}
		s.Kill(t)
		if _, _, err := d.Read(t.Context(), ref, ""); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("reading from a dead server: %v", err)
		}
		s.Restart(t)
	}
	desc, err := d.Describe(t.Context(), ref)
	if err != nil || desc.Current != "3" || len(desc.Versions) != 3 || desc.Note.Version != 3 {
		t.Errorf("described as %+v, %v", desc, err)
	}
}
