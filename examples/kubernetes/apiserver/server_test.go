package apiserver_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/examples/kubernetes/apiserver"
)

const (
	example    = "../deploy/externalsecret.yaml"
	mergePatch = "application/merge-patch+json"
)

// TestRefusesWhatKubernetesRefuses shows that the tests with this server can fail.
func TestRefusesWhatKubernetesRefuses(t *testing.T) {
	s := apiserver.Start(t, example)
	before := s.Get(t, "payments", "stripe")
	for name, c := range map[string]struct {
		query, mediaType, patch string
		status                  int
		says                    string
	}{
		"an annotation that is no text":   {"", mergePatch, `{"metadata":{"annotations":{"force-sync":12}}}`, 400, "annotations"},
		"an annotation without a name":    {"", mergePatch, `{"metadata":{"annotations":{"a b":"12"}}}`, 422, "a b"},
		"an annotation that is too large": {"", mergePatch, `{"metadata":{"annotations":{"a":"` + strings.Repeat("x", 300<<10) + `"}}}`, 422, "Too long"},
		"an unknown field":                {"fieldValidation=Strict", mergePatch, `{"spec":{"refreshNow":true}}`, 400, "spec.refreshNow"},
		"unknown metadata":                {"fieldValidation=Strict", mergePatch, `{"metadata":{"annotation":{"a":"b"}}}`, 400, "annotation"},
		"a wrong type":                    {"", mergePatch, `{"spec":{"refreshInterval":60}}`, 422, "spec.refreshInterval"},
		"a wrong value":                   {"", mergePatch, `{"spec":{"refreshPolicy":"Now"}}`, 422, "spec.refreshPolicy"},
		"another name":                    {"", mergePatch, `{"metadata":{"name":"other"}}`, 422, "metadata.name"},
		"another version":                 {"", mergePatch, `{"apiVersion":"external-secrets.io/v1beta1"}`, 400, "external-secrets.io/v1"},
		"an old resource version":         {"", mergePatch, `{"metadata":{"resourceVersion":"0","annotations":{"a":"b"}}}`, 409, "modified"},
		"no JSON":                         {"", mergePatch, `{`, 400, ""},
		"another kind of patch":           {"", "application/json", `{}`, 415, ""},
	} {
		status, text := s.Patch(t, "payments", "stripe", c.query, c.mediaType, c.patch)
		if status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s: got %d %s", name, status, text)
		}
	}
	if after := s.Get(t, "payments", "stripe"); after.Metadata.ResourceVersion != before.Metadata.ResourceVersion {
		t.Error("something was changed")
	}
	status, text := s.Patch(t, "payments", "none", "", mergePatch, `{"metadata":{"annotations":{"a":"b"}}}`)
	if status != 404 || !strings.Contains(text, `externalsecrets.external-secrets.io \"none\" not found`) {
		t.Errorf("got %d %s", status, text)
	}
}

// TestRefreshesAsTheOperatorDoes: only what has changed, and no status by anybody else.
func TestRefreshesAsTheOperatorDoes(t *testing.T) {
	s := apiserver.Start(t, example)
	before := s.Get(t, "payments", "stripe")
	patch := `{"metadata":{"annotations":{"force-sync":"1"}},"status":{"syncedResourceVersion":"mine"},"spec":{"refreshNow":true}}`
	for range 2 {
		if status, text := s.Patch(t, "payments", "stripe", "", mergePatch, patch); status != 200 {
			t.Fatalf("got %d %s", status, text)
		}
	}
	after := s.Get(t, "payments", "stripe")
	synced := after.Status.SyncedResourceVersion
	if !strings.HasPrefix(synced, "1-") || synced == before.Status.SyncedResourceVersion || after.Metadata.ResourceVersion == before.Metadata.ResourceVersion {
		t.Errorf("got %+v, after %+v", after, before)
	}
	s.Patch(t, "payments", "stripe", "", mergePatch, patch)
	if again := s.Get(t, "payments", "stripe"); again.Metadata.ResourceVersion != after.Metadata.ResourceVersion {
		t.Error("the same again is a change")
	}
	s.PauseOperator(t, true)
	s.Patch(t, "payments", "stripe", "", mergePatch, `{"metadata":{"annotations":{"force-sync":null}}}`)
	if paused := s.Get(t, "payments", "stripe"); paused.Status != after.Status {
		t.Error("refreshed while the operator sleeps")
	}
	s.PauseOperator(t, false)
	if awake := s.Get(t, "payments", "stripe"); awake.Status.SyncedResourceVersion != before.Status.SyncedResourceVersion {
		t.Error("not refreshed, or not noted as what it is again")
	}
}

// TestManifests: every field of those that are to be deployed is one of Kubernetes'.
func TestManifests(t *testing.T) {
	const manifest = "../deploy/keybroker-sync.yaml"
	s := apiserver.Start(t, manifest, example)
	s.Access(t, "keybroker/keybroker-sync")
	good, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range [][2]string{
		{"automountServiceAccountToken: true", "automountServiceAccountTokens: true"},
		{"readOnlyRootFilesystem: true", "readonlyRootFilesystem: true"},
		{"verbs: [get, list, patch]", "verb: [get, list, patch]"},
		{"policyTypes: [Ingress, Egress]", "policyTypes: Ingress"},
		{"apiVersion: apps/v1", "apiVersion: apps/v1beta1"},
	} {
		bad := strings.Replace(string(good), wrong[0], wrong[1], 1)
		file := filepath.Join(t.TempDir(), "bad.yaml")
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := apiserver.Refuses(t, file); bad == string(good) || err == nil || !strings.Contains(err.Error(), "bad.yaml: document") {
			t.Errorf("%s: got %v", wrong[1], err)
		}
	}
}
