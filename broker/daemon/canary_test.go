package daemon_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/examples/consumer/receiver"
)

// TestSecretsAppearNowhere forces failures on the way of every secret and then
// looks for each of them wherever a node leaves traces.
func TestSecretsAppearNowhere(t *testing.T) {
	t.Run("embedded", huntEmbedded)
	t.Run("vault", huntVault)
}

// hunt knows the secrets of one site and what its API answered, except where
// the answer is a secret by purpose. It is the transport of the site's clients.
type hunt struct {
	*site
	transport http.Transport

	mu      sync.Mutex
	secrets map[string]string // text → what it is
	answers bytes.Buffer
}

func newHunt(s *site) *hunt {
	h := &hunt{site: s, secrets: map[string]string{}}
	s.t.Cleanup(h.transport.CloseIdleConnections)
	return h
}

// after adds secrets to what is hunted.
func (h *hunt) after(what string, texts ...string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, text := range texts {
		if len(text) < 12 {
			h.t.Fatalf("%s is too short to be looked for", what)
		}
		h.secrets[text] = what
	}
}

// RoundTrip keeps a copy of the answer.
func (h *hunt) RoundTrip(r *http.Request) (*http.Response, error) {
	return h.roundTrip(&h.transport, r)
}

func (h *hunt) roundTrip(by *http.Transport, r *http.Request) (*http.Response, error) {
	resp, err := by.RoundTrip(r)
	shown := strings.HasSuffix(r.URL.Path, "/value") || r.Method == http.MethodPost && (strings.HasSuffix(r.URL.Path, "/tokens") || strings.HasSuffix(r.URL.Path, "/login"))
	if err != nil || shown && resp.StatusCode < 300 {
		return resp, err
	}
	h.keep([]byte(fmt.Sprintf("%s %v\n", r.Method, resp.Header)))
	resp.Body = &copied{resp.Body, h}
	return resp, nil
}

func (h *hunt) keep(b []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers.Write(b)
}

type copied struct {
	io.ReadCloser
	to *hunt
}

// Read implements io.Reader.
func (c *copied) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.to.keep(p[:n])
	return n, err
}

// begin starts the site; everything that its clients are answered is kept.
func (h *hunt) begin() *node {
	h.t.Helper()
	n := h.start()
	h.after("the root token", h.rootToken())
	n.Client = h.caller(h.rootToken())
	return n
}

func (h *hunt) caller(token string) *client.Client {
	h.t.Helper()
	c, err := client.New("http://"+h.addr, token, client.Options{Transport: h})
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// values reads every version that can be read.
func (h *hunt) values(n *node, secret string) {
	h.t.Helper()
	s, err := n.Secret(h.t.Context(), secret)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, v := range s.Versions {
		value, err := n.Value(h.t.Context(), secret, v.Number)
		if err != nil {
			continue // retired, or being revoked
		}
		h.after(fmt.Sprintf("version %d of %s", v.Number, secret), value.Fields["key"])
		if value.Previous != nil {
			h.after("a previous version of "+secret, value.Previous.Fields["key"])
		}
	}
}

// use makes the secret go through what can happen to it: two rotations, a
// version revoked in the overlap, and an emergency.
func (h *hunt) use(n *node, secret string) {
	h.t.Helper()
	ctx := h.t.Context()
	done := func(id string) {
		h.t.Helper()
		h.values(n, secret)
		if rot, _ := n.follow(h.t, id); rot.State != client.RotationDone {
			h.t.Fatalf("rotation: %s: %s", rot.State, rot.Error)
		}
		h.values(n, secret)
	}
	overlap := func() string {
		h.t.Helper()
		r, err := n.Rotate(ctx, secret, client.RotateRequest{Reason: "hunt"})
		if err != nil {
			h.t.Fatal(err)
		}
		eventually(h.t, "the overlap", func() bool {
			h.values(n, secret)
			now, err := n.Rotation(ctx, r.ID)
			return err == nil && now.State != "queued" && !now.PublishedAt.IsZero()
		})
		return r.ID
	}
	done(overlap())
	id := overlap()
	if _, err := n.Revoke(ctx, secret, client.RevokeRequest{Version: h.previous(n, secret), Reason: "hunt"}); err != nil && client.Status(err) != http.StatusConflict {
		h.t.Fatal(err)
	}
	done(id)
	e, err := n.Emergency(ctx, secret, client.EmergencyRequest{Reason: "leaked"})
	if err != nil {
		h.t.Fatal(err)
	}
	done(e.ID)
}

func (h *hunt) previous(n *node, secret string) int {
	h.t.Helper()
	s, err := n.Secret(h.t.Context(), secret)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, v := range s.Versions {
		if v.Stage == client.StagePrevious {
			return v.Number
		}
	}
	return s.Current()
}

// askEverything calls every endpoint, rightly and wrongly.
func (h *hunt) askEverything(n *node, secret string) {
	h.t.Helper()
	ctx := h.t.Context()
	check := func(_ any, err error) {
		h.t.Helper()
		if err != nil {
			h.t.Errorf("asking: %v", err)
		}
	}
	check(n.Secrets(ctx, client.SecretQuery{}))
	check(n.Secret(ctx, secret))
	rotations, err := n.Rotations(ctx, client.RotationQuery{})
	check(rotations, err)
	for _, r := range rotations.Items {
		check(n.Rotation(ctx, r.ID))
	}
	retirements, err := n.Retirements(ctx, client.RetirementQuery{})
	check(retirements, err)
	for _, r := range retirements.Items {
		check(n.Retirement(ctx, r.ID))
	}
	deliveries, err := n.Deliveries(ctx, client.DeliveryQuery{})
	check(deliveries, err)
	for _, d := range deliveries.Items {
		check(n.Delivery(ctx, d.ID))
		check(n.Acknowledge(ctx, d.ID, client.AcknowledgeRequest{Status: client.AckReceived, Generation: d.Generation}))
		if d.Event != "secret.rotated" {
			continue
		}
		if _, err := n.Acknowledge(ctx, d.ID, client.AcknowledgeRequest{Generation: d.Generation, Fingerprint: "00"}); client.Status(err)/100 != 4 {
			h.t.Errorf("applied without proof: %v, want a refusal", err)
		}
	}
	if len(rotations.Items) < 3 || len(retirements.Items) < 2 || len(deliveries.Items) < 3 {
		h.t.Errorf("only %d rotations, %d retirements and %d deliveries to look at", len(rotations.Items), len(retirements.Items), len(deliveries.Items))
	}
	check(n.Pause(ctx, secret, client.PauseRequest{Reason: "hunt"}))
	check(n.Resume(ctx, secret))
	h.intervene(n, secret, rotations.Items, retirements.Items, deliveries.Items)
	token, err := n.CreateToken(ctx, client.CreateTokenRequest{Name: "hunter", Policies: []string{"root"}, TTL: "30m"})
	check(token, err)
	h.after("a created token", token.Token.Reveal())
	check(h.caller(token.Token.Reveal()).Secrets(ctx, client.SecretQuery{}))
	check(n.Tokens(ctx, client.Page{}))
	check(n.SecretConsumers(ctx, secret))
	consumers, err := n.Consumers(ctx)
	check(consumers, err)
	for _, c := range consumers.Items {
		check(n.Consumer(ctx, c.Name))
		check(n.TestConsumer(ctx, c.Name, client.ConsumerRequest{Reason: "hunt"}))
	}
	check(n.RevokeToken(ctx, token.ID))
	for text := range maps.Clone(h.secrets) {
		check(n.CheckKey(ctx, client.SecretText(text)))
	}
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/nosuch", "/api/v1/secrets?limit=x"} {
		h.ask(path)
	}
	h.askWrongly(n, secret, token.Token.Reveal())
}

// intervene does what operators can do; much of it is refused.
func (h *hunt) intervene(n *node, secret string, rotations []client.Rotation, retirements []client.Retirement, deliveries []client.Delivery) {
	h.t.Helper()
	ctx, why := h.t.Context(), client.InterventionRequest{Reason: "hunt"}
	for what, err := range map[string]error{
		"plan":     second(n.Plan(ctx, secret)),
		"repair":   second(n.Repair(ctx, secret, client.RepairRequest{Overwrite: true})),
		"orphans":  second(n.Orphans(ctx, client.OrphanQuery{})),
		"freeze":   second(n.Freeze(ctx, why)),
		"frozen":   second(n.Frozen(ctx)),
		"unfreeze": second(n.Unfreeze(ctx, why)),
	} {
		if err != nil {
			h.t.Errorf("%s: %v", what, err)
		}
	}
	dry := client.InterventionRequest{Reason: "hunt", DryRun: true}
	for _, r := range rotations {
		for _, call := range []func(context.Context, string, client.InterventionRequest) (client.RotationIntervention, error){n.Cancel, n.Retry, n.Approve, n.RollBack} {
			if _, err := call(ctx, r.ID, dry); err != nil && client.Status(err)/100 != 4 {
				h.t.Errorf("intervening in a rotation that is %s: %v", r.State, err)
			}
		}
	}
	for _, r := range retirements {
		if _, err := n.Probe(ctx, r.ID, why); err != nil && client.Status(err) != http.StatusConflict {
			h.t.Errorf("probing what is %s: %v", r.State, err)
		}
	}
	for _, d := range deliveries {
		if _, err := n.Replay(ctx, d.ID, why); err != nil && client.Status(err) != http.StatusConflict {
			h.t.Errorf("replaying what is %s: %v", d.State, err)
		}
	}
}

func (h *hunt) askWrongly(n *node, secret, revoked string) {
	h.t.Helper()
	ctx := h.t.Context()
	mistyped := h.rootToken()[:len(h.rootToken())-1] + "!"
	h.after("a mistyped token", mistyped)
	for what, err := range map[string]error{
		"mistyped token":  second(h.caller(mistyped).Value(ctx, secret, 0)),
		"revoked token":   second(h.caller(revoked).Value(ctx, secret, 0)),
		"key as a token":  second(h.caller(h.current(n, secret)).Secrets(ctx, client.SecretQuery{})),
		"no such secret":  second(n.Value(ctx, "no/such", 0)),
		"no such version": second(n.Value(ctx, secret, 999)),
		"current version": second(n.Revoke(ctx, secret, client.RevokeRequest{Version: h.previous(n, secret)})),
		"no reason":       second(n.Emergency(ctx, secret, client.EmergencyRequest{})),
		"no trigger":      second(n.Event(ctx, "nosuch", client.EventRequest{ID: "1", Secret: secret, Reason: "test"})),
		"no policy":       second(n.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Policies: []string{"nosuch"}})),
		"no delivery":     second(n.Acknowledge(ctx, "nosuch", client.AcknowledgeRequest{Generation: 1})),
	} {
		if client.Status(err)/100 != 4 {
			h.t.Errorf("%s: %v, want a refusal", what, err)
		}
	}
}

func (h *hunt) current(n *node, secret string) string {
	h.t.Helper()
	return n.value(h.t, secret).Fields["key"]
}

func (h *hunt) ask(path string) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, "http://"+h.addr+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if path == "/metrics" { // not for everybody
		r.Header.Set("Authorization", "Bearer "+h.rootToken())
	}
	resp, err := h.RoundTrip(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		h.t.Error(err)
	}
}

// look searches what the node has left by now.
func (h *hunt) look(when string) {
	h.t.Helper()
	h.mu.Lock()
	answers := h.answers.String()
	secrets := maps.Clone(h.secrets)
	h.mu.Unlock()
	places := map[string]string{"the node's log": h.log.String(), "the API's answers": answers}
	sealKey := h.config().Seals[0].File.Path
	raw, err := os.ReadFile(sealKey)
	if err != nil {
		h.t.Fatal(err)
	}
	secrets[string(raw)] = "the seal key"
	data := filepath.Join(h.dir, "data")
	err = filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == sealKey || filepath.Base(path) == daemon.RootTokenFile {
			return err
		}
		b, err := os.ReadFile(path)
		places["the file "+d.Name()] = string(b)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	for place, text := range places {
		for secret, what := range secrets {
			for form, shape := range shapes(secret) {
				if strings.Contains(text, shape) {
					h.t.Errorf("%s: %s holds %s (%s)", when, place, what, form)
				}
			}
		}
	}
	h.t.Logf("%s: %d secrets looked for in %d places", when, len(secrets), len(places))
}

func shapes(secret string) map[string]string {
	b := []byte(secret)
	return map[string]string{"plain": secret, "hex": hex.EncodeToString(b), "base64": base64.RawStdEncoding.EncodeToString(b),
		"base64url": base64.RawURLEncoding.EncodeToString(b)}
}

// wantTraces makes sure that the places looked at are those where traces are.
func (h *hunt) wantTraces() {
	h.t.Helper()
	h.mu.Lock()
	answers := h.answers.String()
	h.mu.Unlock()
	for place, want := range map[string]struct{ text, part string }{
		"the node's log":     {h.log.String(), "[DEBUG]"},
		"the audit log":      {h.read("data/audit.jsonl"), "rotation.publish"},
		"the tries":          {answers, `"tries":[`},
		"an event stream":    {answers, "text/event-stream"},
		"the metrics":        {answers, "keybroker_rotations_total"},
		"problems":           {answers, client.ProblemType},
		"failed deliveries":  {h.read("data/audit.jsonl"), "it answered 500"},
		"the jobs' argument": {h.database(), `{"id":"`},
	} {
		if !strings.Contains(want.text, want.part) {
			h.t.Errorf("%s: no %q", place, want.part)
		}
	}
}

func (h *hunt) database() string {
	h.t.Helper()
	return h.read(filepath.Join("data", filepath.Base(h.config().Storage.Path)))
}

// echoingConsumer answers the first deliveries with 500 and all that it was
// sent; then it applies them.
func (h *hunt) echoingConsumer(failures int32) *consumer {
	h.t.Helper()
	signing := newSigningSecret()
	h.env["SIGNING_SECRET"] = signing.Reveal()
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signing.Reveal(), "whsec_"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.after("the signing secret", signing.Reveal(), string(raw))
	r, err := receiver.New(signing, receiver.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		var event struct {
			Data struct{ Fields map[string]string }
		}
		if json.Unmarshal(body, &event) == nil && event.Data.Fields["key"] != "" {
			h.after("a pushed value", event.Data.Fields["key"])
		}
		if asked.Add(1) <= failures {
			echo(w, req, http.StatusInternalServerError, body)
			return
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		r.ServeHTTP(w, req)
	}))
	h.t.Cleanup(srv.Close)
	return &consumer{r, srv.URL}
}

func echo(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	w.Header().Set("X-Echo", r.Header.Get("Authorization"))
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "%v\n%s", r.Header, body)
}

func huntEmbedded(t *testing.T) {
	t.Parallel()
	h := newHunt(newSite(t, ""))
	node, err := url.Parse("http://" + h.addr)
	if err != nil {
		t.Fatal(err)
	}
	var unsure atomic.Int32 // probes that are answered with 503
	proxy := httputil.NewSingleHostReverseProxy(node)
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if unsure.Add(-1) >= 0 {
			echo(w, r, http.StatusServiceUnavailable, nil)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(gate.Close)
	app := h.echoingConsumer(2)
	hcl := strings.Replace(withConsumer(embedded, app), "http://ADDR/api", gate.URL+"/api", 1)
	h.hcl = strings.ReplaceAll(hcl, "ADDR", h.addr)

	n := h.begin()
	unsure.Store(2)
	h.use(n, "app/key")
	h.askEverything(n, "app/key")
	h.look("running")
	n.stop()
	h.wantTraces()
	h.look("stopped")
}

func huntVault(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	h := newHunt(s.site)
	app := h.echoingConsumer(2)
	h.hcl = strings.ReplaceAll(h.hcl, s.app.url, app.url)
	h.after("the mailer's admin token", s.api.AdminToken)
	h.after("Vault's secret id", s.env["VAULT_SECRET_ID"])
	h.after("Vault's root token", s.vault.RootToken)

	n := h.begin()
	s.api.Override("GET /v1/me", http.StatusServiceUnavailable, 2)
	s.api.Override("DELETE /v1/keys/{id}", http.StatusBadGateway, 1)
	h.use(n, "mail/sender")
	s.api.Override("POST /v1/keys", http.StatusInternalServerError, 1)
	s.api.Override("GET /v1/keys", http.StatusInternalServerError, 1)
	n.rotate(t, "mail/sender")
	s.vault.Seal(t)
	h.waitsForVault(n)
	h.askEverything(n, "mail/sender")
	h.look("with the vault sealed")
	n.stop()

	s.vault.Unseal(t)
	s.env["VAULT_SECRET_ID"] = "6d1d2a4e-wrong-secret-id-" + strings.Repeat("7", 12)
	h.after("a wrong secret id", s.env["VAULT_SECRET_ID"])
	n = h.begin()
	eventually(t, "the vault to refuse us", func() bool {
		h.ask("/readyz")
		return strings.Contains(h.log.String(), "a backend cannot be used")
	})
	n.stop()
	h.after("a key of the API", s.api.Secrets()...)
	h.wantTraces()
	h.look("stopped")
}

// waitsForVault starts a rotation that cannot begin.
func (h *hunt) waitsForVault(n *node) {
	h.t.Helper()
	r, err := n.Rotate(h.t.Context(), "mail/sender", client.RotateRequest{})
	if err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "waiting for the backend", func() bool {
		now, err := n.Rotation(h.t.Context(), r.ID)
		return err == nil && now.WaitingFor == "backend"
	})
}
