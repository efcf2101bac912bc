package httpapi_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

func (m *memory) SealStatus(_ context.Context, p authn.Principal) (client.SealStatus, error) {
	return client.SealStatus{Keys: []client.SealKey{{ID: "k2", Current: true, CreatedAt: then, Values: 3}}}, m.serve(p, "seal")
}

func (m *memory) RotateSeal(_ context.Context, p authn.Principal, r client.SealRotateRequest) (client.SealRotation, error) {
	return client.SealRotation{Key: "k2"}, m.serve(p, "rotate seal", r.Reason)
}

func (m *memory) VerifySeal(_ context.Context, p authn.Principal, r client.SealVerifyRequest) (client.SealVerification, error) {
	v := client.SealVerification{Opened: 2}
	if r.After == "" {
		v.Seals, v.Next = []client.Seal{{ID: "file:1", State: client.SealReady}}, "more"
	} else {
		v.Failed = []client.SealedFailure{{Table: "versions", Name: "a/b", Version: 1}}
	}
	return v, m.serve(p, "verify seal", r.After)
}

func TestSealReachesTheBroker(t *testing.T) {
	n := start(t, newMemory(), nil)
	ctx := t.Context()
	for token, wants := range map[string]int{goodToken: 0, otherToken: http.StatusForbidden, "nope": http.StatusUnauthorized} {
		c := n.client(t, token)
		for want, call := range map[string]func() error{
			"seal":            func() error { _, err := c.SealStatus(ctx); return err },
			"rotate seal why": func() error { _, err := c.RotateSeal(ctx, client.SealRotateRequest{Reason: "why"}); return err },
			"verify seal here": func() error {
				_, err := c.VerifySeal(ctx, "here")
				return err
			},
		} {
			err := call()
			if client.Status(err) != wants || wants == 0 && (err != nil || n.last() != want) {
				t.Errorf("%s: the broker was asked %q: %v", want, n.last(), err)
			}
		}
	}
}

func TestWholeSealIsVerifiedInParts(t *testing.T) {
	n := start(t, newMemory(), nil)
	parts := 0
	v, err := n.client(t, goodToken).VerifyWholeSeal(t.Context(), func(client.SealVerification) { parts++ })
	if err != nil || parts != 2 || v.Opened != 4 || len(v.Failed) != 1 || len(v.Seals) != 1 || v.Next != "" {
		t.Errorf("%+v in %d parts: %v", v, parts, err)
	}
}
