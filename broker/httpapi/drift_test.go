package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// What memory answers to those who look after its vaults.

func (m *memory) placement() client.Placement {
	return client.Placement{Secret: m.secret.Name, Backend: "us", Role: client.RoleMirror, State: client.Behind, WantedVersion: 3}
}

func (m *memory) Placements(_ context.Context, p authn.Principal, q client.DriftQuery) (client.List[client.Placement], error) {
	return client.List[client.Placement]{Items: []client.Placement{m.placement()}}, m.serve(p, "placements", q.Secret, q.Backend, q.All, q.Limit)
}

func (m *memory) CheckDrift(_ context.Context, p authn.Principal, name string, r client.CheckDriftRequest) (client.List[client.Placement], error) {
	return client.List[client.Placement]{Items: []client.Placement{m.placement()}}, m.serve(p, "check", name, r.Reason)
}

func (m *memory) RestoreDrift(_ context.Context, p authn.Principal, name string, r client.DriftRequest) (client.Restoration, error) {
	return client.Restoration{Foretold: foretold(r.InterventionRequest), Placement: m.placement()}, m.serve(p, "restore", name, r.Backend, r.Reason, r.DryRun)
}

func (m *memory) AdoptDrift(_ context.Context, p authn.Principal, name string, r client.DriftRequest) (client.RotationIntervention, error) {
	return client.RotationIntervention{Foretold: foretold(r.InterventionRequest), Rotation: m.rotation(r.Reason)}, m.serve(p, "adopt", name, r.Backend, r.Reason, r.DryRun)
}

func (m *memory) Import(_ context.Context, p authn.Principal, name string, r client.ImportRequest) (client.Import, error) {
	return client.Import{Foretold: foretold(r.InterventionRequest), Versions: []client.ImportedVersion{}},
		m.serve(p, "import", name, r.Handle["id"], r.VersionHandles["7"]["id"], r.Version, r.Reason, r.DryRun)
}

func TestVaultsAreLookedAfter(t *testing.T) {
	m := newMemory()
	n := start(t, m, nil)
	ctx := t.Context()
	const name = "payments/stripe"
	why := client.InterventionRequest{Reason: "why"}
	handle := map[string]string{"id": "key_1"}
	for want, call := range map[string]func(c *client.Client) error{
		"placements   false 0": func(c *client.Client) error {
			return second(c.Placements(ctx, client.DriftQuery{}))
		},
		"placements payments/stripe us true 5": func(c *client.Client) error {
			return second(c.Placements(ctx, client.DriftQuery{Secret: name, Backend: "us", All: true, Page: client.Page{Limit: 5}}))
		},
		"check payments/stripe why": func(c *client.Client) error {
			return second(c.CheckDrift(ctx, name, client.CheckDriftRequest{Reason: "why"}))
		},
		"restore payments/stripe us why false": func(c *client.Client) error {
			return second(c.RestoreDrift(ctx, name, client.DriftRequest{Backend: "us", InterventionRequest: why}))
		},
		"adopt payments/stripe us  true": func(c *client.Client) error {
			return second(c.AdoptDrift(ctx, name, client.DriftRequest{Backend: "us", InterventionRequest: client.InterventionRequest{DryRun: true}}))
		},
		"import payments/stripe key_1 key_0 0 why false": func(c *client.Client) error {
			return second(c.Import(ctx, name, client.ImportRequest{Handle: handle, VersionHandles: map[string]map[string]string{"7": {"id": "key_0"}}, InterventionRequest: why}))
		},
		"import payments/stripe key_1  4  true": func(c *client.Client) error {
			return second(c.Import(ctx, name, client.ImportRequest{Handle: handle, Version: 4, InterventionRequest: client.InterventionRequest{DryRun: true}}))
		},
	} {
		if err := call(n.client(t, goodToken)); err != nil || m.last() != want {
			t.Errorf("%v; the broker was asked %q, want %q", err, m.last(), want)
		}
		if err := call(n.client(t, otherToken)); client.Status(err) != http.StatusForbidden {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestNamesBeforeTwoWords: drift/check is one sub-resource, and check is none.
func TestNamesBeforeTwoWords(t *testing.T) {
	n := start(t, newMemory(), nil)
	for path, want := range map[string]string{
		"POST payments/stripe/drift/check":   "check payments/stripe",
		"POST payments%2Fstripe/drift/check": "check payments/stripe",
		"POST drift/drift/check":             "check drift",
		"GET drift/check":                    "secret drift/check",
		"GET payments/drift":                 "secret payments/drift",
		"GET payments%2Fdrift%2Fcheck":       "secret payments/drift/check",
		"GET payments%2Fdrift%2Fcheck/value": "value payments/drift/check 0",
	} {
		method, path, _ := strings.Cut(path, " ")
		if a := n.ask(t, method, "/api/v1/secrets/"+path, goodToken, ""); n.last() != want {
			t.Errorf("%s %s asked %q, want %q (%d %s)", method, path, n.last(), want, a.status, a.body)
		}
	}
}

func second[T any](_ T, err error) error { return err }
