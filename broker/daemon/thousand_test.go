package daemon_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/report"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// The kinds of secrets of the great emergency, by what is wrong around them.
const (
	kindInternal = "internal" // nothing: keys of the broker's own
	kindOutside  = "outside"  // nothing: keys of somebody's API
	kindUnsaved  = "unsaved"  // the vault hangs
	kindUnmade   = "unmade"   // the issuer hangs when it is to mint
	kindRefused  = "refused"  // the issuer fails when it is to mint
	kindAlive    = "alive"    // the issuer hangs when it is to revoke
)

var greatKinds = []string{kindInternal, kindOutside, kindUnsaved, kindUnmade, kindRefused, kindAlive}

// stalling forwards to a server and, once told to, lets requests that match hang until
// whoever asks gives up.
type stalling struct {
	url string

	mu   sync.Mutex
	over chan struct{} // nil: nothing hangs; closed: what has hung is cut off
}

// begin lets requests hang from now on.
func (g *stalling) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = make(chan struct{})
}

// end cuts off what hangs, and lets nothing hang any more.
func (g *stalling) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over != nil {
		close(g.over)
	}
	g.over = nil
}

func (g *stalling) hanging() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.over
}

func newStalling(t *testing.T, to string, match func(*http.Request) bool) *stalling {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	g, proxy := &stalling{}, httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) } // it says nothing
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if over := g.hanging(); over != nil && match(r) {
			_, _ = io.Copy(io.Discard, r.Body) // else the end of the request is not seen
			select {
			case <-over:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(g.end)
	g.url = srv.URL
	return g
}

func method(name string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == name }
}

func anyRequest(*http.Request) bool { return true }

// greatEmergency is a node with many secrets, each of which has three consumers: one that
// works, one that is slow, and one that is down.
type greatEmergency struct {
	*site
	*node
	t        *testing.T
	names    []string
	kind     map[string]string
	old      map[string]string // the keys before
	apis     map[string]*keyserver.Server
	lost     *stalling // the vault
	broken   []*stalling
	sink     *stalling
	audience []*listener
}

// keysOf is the configuration of an issuer and a probe before a server of keys.
func keysOf(name, mintAndRevokeAt, probeAt string) string {
	return strings.NewReplacer("NAME", name, "API", mintAndRevokeAt, "ME", probeAt).Replace(`
issuer "http" "NAME" {
  base_url              = "API"
  allow_private_network = true
  auth "bearer" {
    token = env("ADMIN_NAME")
  }
  create {
    method = "POST"
    path   = "/v1/keys"
    body   = jsonencode({ name = rotation.tag })
    handle = { id = "$.id" }
    fields = { key = "$.secret" }
  }
  find {
    method = "GET"
    path   = "/v1/keys?name=${rotation.tag}"
    items  = "$.data"
    tag    = "$.name"
    handle = { id = "$.id" }
  }
  revoke {
    method = "DELETE"
    path   = "/v1/keys/${handle.id}"
  }
  show_once         = true
  revocation_budget = "3s"
}
probe "http" "NAME" {
  method                = "GET"
  url                   = "ME/v1/me"
  headers               = { Authorization = "Bearer ${field.key}" }
  canary                = { key = env("CANARY_NAME") } # a proof takes a key that works, also where nothing is replaced
  allow_private_network = true
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}
`)
}

// newGreatEmergency makes it with so many secrets, all of which have a key already.
func newGreatEmergency(t *testing.T, secrets int) *greatEmergency {
	t.Helper()
	w := &greatEmergency{t: t, kind: map[string]string{}, old: map[string]string{}, apis: map[string]*keyserver.Server{}}
	vault := vaultserver.Shared(t)
	mount := vault.KV(t)
	roleID, secretID := vault.AppRole(t, vaultserver.AppRole{Policy: fmt.Sprintf(`
path "%[1]s/data/*" { capabilities = ["create", "read", "update"] }
path "%[1]s/metadata/*" { capabilities = ["read", "list", "create", "update"] }
path "%[1]s/destroy/*" { capabilities = ["update"] }`, mount)})
	w.lost, w.sink = newStalling(t, vault.Addr, anyRequest), newStalling(t, vault.Addr, anyRequest)
	w.sink.begin()
	env := map[string]string{"VAULT_ROLE_ID": roleID, "VAULT_SECRET_ID": secretID}
	var hcl strings.Builder
	hcl.WriteString(withoutWaits(withConsumer(embedded, nil)))
	fmt.Fprintf(&hcl, `
emergency {
  approval_above = 0
}
rotation_policy "soon" {
  match {
    paths = ["great/*"]
  }
  emergency {
    replace_within = "2s"
  }
}
audit "http" "lake" {
  url                   = %q
  allow_private_network = true
}
backend "vault" "lost" {
  address = %q
  mount   = %q
  auth "approle" {
    role_id   = env("VAULT_ROLE_ID")
    secret_id = env("VAULT_SECRET_ID")
  }
}
`, w.sink.url, w.lost.url, mount)
	for _, kind := range greatKinds[1:] {
		api := keyserver.Start(t)
		w.apis[kind] = api
		env["ADMIN_"+kind], env["CANARY_"+kind] = api.AdminToken, api.Canary()
		at := api.URL
		if hangs := map[string]string{kindUnmade: http.MethodPost, kindAlive: http.MethodDelete}[kind]; hangs != "" {
			g := newStalling(t, api.URL, method(hangs))
			w.broken, at = append(w.broken, g), g.url
		}
		hcl.WriteString(keysOf(kind, at, api.URL))
	}
	hcl.WriteString(w.consumers())
	for i := range secrets {
		kind := greatKinds[i%len(greatKinds)]
		name, backend := fmt.Sprintf("great/%s%d", kind, i), "embedded"
		if kind == kindUnsaved {
			backend = "lost"
		}
		w.names, w.kind[name] = append(w.names, name), kind
		fmt.Fprintf(&hcl, "secret %q {\n  backend = %q\n  probe = %q\n  consumers = [\"works%d\", \"slow\", \"down\"]\n  issuer %q {}\n}\n", name, backend, kind, i%len(w.audience), kind)
	}
	w.site = newSite(t, hcl.String())
	w.env = env
	w.node = w.start()
	w.first()
	return w
}

// consumers configures three that work, one that is slow, and one that is down.
func (w *greatEmergency) consumers() string {
	var p push
	for i := range 3 {
		l := newListener(w.t, nil)
		w.audience = append(w.audience, l)
		p.tell(fmt.Sprint("works", i), l.url, "")
	}
	slow, over := newListener(w.t, nil), make(chan struct{})
	w.t.Cleanup(func() { close(over) })
	slow.answer(func(rw http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(2 * time.Second):
		case <-over:
		}
		slow.take(rw, r)
	})
	p.tell("slow", slow.url, "")
	down, err := loopback.Address()
	if err != nil {
		w.t.Fatal(err)
	}
	p.tell("down", "http://"+down, "")
	return p.hcl.String()
}

// first gives each secret its first key.
func (w *greatEmergency) first() {
	w.t.Helper()
	w.all(func(name string) error {
		_, err := w.Rotate(w.t.Context(), name, client.RotateRequest{})
		return err
	})
	w.until("the first keys", func() bool {
		live, err := w.Rotations(w.t.Context(), client.RotationQuery{Live: true, Page: client.Page{Limit: 1}})
		return err == nil && len(live.Items) == 0
	})
	var mu sync.Mutex
	w.all(func(name string) error {
		v, err := w.Value(w.t.Context(), name, 0)
		mu.Lock()
		defer mu.Unlock()
		w.old[name] = v.Fields["key"]
		return err
	})
}

// all does something for every secret.
func (w *greatEmergency) all(do func(name string) error) {
	w.t.Helper()
	var doing sync.WaitGroup
	for some := range slices.Chunk(w.names, len(w.names)/8+1) {
		doing.Go(func() {
			for _, name := range some {
				if err := do(name); err != nil {
					w.t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	doing.Wait()
	if w.t.Failed() {
		w.t.FailNow()
	}
}

func (w *greatEmergency) count(kinds ...string) (n int) {
	for _, kind := range w.kind {
		if slices.Contains(kinds, kind) {
			n++
		}
	}
	return n
}

// works tells whether the key that a secret had before is accepted.
func (w *greatEmergency) oldWorks(name string) bool {
	if w.kind[name] == kindInternal {
		return w.works(w.t, w.old[name])
	}
	return w.apis[w.kind[name]].Works(w.old[name])
}

// breakThings has fail what is to fail from now on.
func (w *greatEmergency) breakThings() {
	w.lost.begin()
	for _, g := range w.broken {
		g.begin()
	}
	w.apis[kindRefused].Override("POST /v1/keys", http.StatusServiceUnavailable, -1)
}

// mend has everything work again.
func (w *greatEmergency) mend() {
	w.lost.end()
	for _, g := range w.broken {
		g.end()
	}
	w.apis[kindRefused].Override("POST /v1/keys", 0, 0)
}

// patience is how long anything is waited for: a thousand secrets take a while on a
// machine that is busy with other tests.
const patience = 10 * time.Minute

// until waits until ok.
func (w *greatEmergency) until(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Errorf("waited in vain for: %s", what)
			return
		}
	}
}

// incident waits until an incident is as it should be, and returns all of it.
func (w *greatEmergency) incident(id, what string, ok func(client.Incident) bool) client.Incident {
	w.t.Helper()
	w.until(what, func() bool {
		list, err := w.Incidents(w.t.Context(), client.IncidentQuery{Page: client.Page{Limit: 1}})
		return err == nil && len(list.Items) == 1 && ok(list.Items[0])
	})
	inc, err := w.Incident(w.t.Context(), id)
	if err != nil || w.t.Failed() {
		w.t.Fatalf("%+v, of what is stuck: %+v (%v)", inc.Progress, inc.Stuck[:min(len(inc.Stuck), 10)], err)
	}
	return inc
}

// A thousand secrets in one emergency, while a vault, issuers, consumers and an audit sink
// hang or fail: every key that its issuer can revoke is contained and proven dead, what
// works gets its replacement, and what is open is said. Nothing of it waits for what hangs,
// which hangs until all of it is looked at.
func TestManySecretsInOneEmergency(t *testing.T) {
	if os.Getenv("CHAOS_SECRETS") == "" {
		t.Parallel()
	}
	for _, contain := range []string{client.ReplaceFirst, client.RevokeFirst} {
		t.Run(contain, func(t *testing.T) {
			w := newGreatEmergency(t, chaosSecrets(t, 24))
			w.breakThings()
			inc, err := w.DeclareIncident(t.Context(), client.IncidentRequest{Reason: "everything leaked", Contain: contain, Selector: client.Selector{Patterns: []string{"great/*"}}})
			if err != nil {
				t.Fatal(err)
			}
			alive := w.count(kindAlive)
			inc = w.incident(inc.ID, "every key that can be revoked is proven dead", func(i client.Incident) bool {
				return i.Progress.Pending == 0 && i.Progress.Proven == len(w.names)-alive
			})
			w.contained(inc)
			well := w.count(kindInternal, kindOutside, kindAlive)
			w.incident(inc.ID, "what works is replaced", func(i client.Incident) bool { return i.Progress.Replaced == well })
			w.told()
			w.reported(inc.ID)
			w.mend()
			inc = w.incident(inc.ID, "everything is proven dead and replaced", func(i client.Incident) bool {
				return i.Progress.Proven == len(w.names) && i.Progress.Replaced == len(w.names) && !i.ProvenAt.IsZero()
			})
			w.over(inc)
		})
	}
}

func chaosSecrets(t *testing.T, otherwise int) int {
	t.Helper()
	text := os.Getenv("CHAOS_SECRETS")
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < len(greatKinds) {
		t.Fatalf("CHAOS_SECRETS is %q, not a number from %d", text, len(greatKinds))
	}
	return n
}

// contained looks at an incident all of which is proven dead but what cannot be revoked.
func (w *greatEmergency) contained(inc client.Incident) {
	w.t.Helper()
	alive := w.count(kindAlive)
	if p := inc.Progress; p.Versions != len(w.names) || p.Contained != len(w.names)-alive || !inc.ContainedAt.IsZero() {
		w.t.Errorf("%d of %d versions are contained, at %q; %d cannot be revoked", p.Contained, p.Versions, inc.ContainedAt, alive)
	}
	for _, name := range w.names {
		if works := w.oldWorks(name); works != (w.kind[name] == kindAlive) {
			w.t.Errorf("the old key of %s works: %t", name, works)
		}
	}
	for _, target := range inc.Targets {
		for _, v := range target.Versions {
			if dead := v.State == client.ProvenDead; dead == (w.kind[target.Secret] == kindAlive) {
				w.t.Errorf("version %d of %s is %s (%s)", v.Version, target.Secret, v.State, v.Error)
			}
		}
	}
	if len(inc.Targets) != len(w.names) {
		w.t.Errorf("%d targets of %d", len(inc.Targets), len(w.names))
	}
}

// told waits until the consumers that work have the replacements that could be made.
func (w *greatEmergency) told() {
	w.t.Helper()
	for i, name := range w.names {
		if slices.Contains([]string{kindInternal, kindOutside, kindAlive}, w.kind[name]) {
			w.until("the replacement of "+name+" comes to who works", func() bool { return w.audience[i%len(w.audience)].has(name) == 2 })
		}
	}
}

// reported looks at the report: it is whole, and says what is open.
func (w *greatEmergency) reported(id string) {
	w.t.Helper()
	both, err := w.IncidentReport(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	doc, err := report.Verify([]byte(both.JSON), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	said := map[string]map[string]bool{} // secret → kinds of claims
	for _, c := range doc.Report.Claims {
		if said[c.Secret] == nil {
			said[c.Secret] = map[string]bool{}
		}
		said[c.Secret][c.Kind] = true
	}
	for _, name := range w.names {
		dead, is := w.kind[name] != kindAlive, said[name]
		if !is[report.KindCompromised] || is[report.KindContained] != dead || is[report.KindProven] != dead || !dead && !is[report.KindOpen] {
			w.t.Errorf("the report says of %s: %v", name, slices.Sorted(maps.Keys(is)))
		}
		if well := dead && w.kind[name] != kindUnsaved && w.kind[name] != kindUnmade && w.kind[name] != kindRefused; well && !is[report.KindReplaced] {
			w.t.Errorf("the report does not say that %s is replaced: %v", name, slices.Sorted(maps.Keys(is)))
		}
	}
	if total := said[""]; !total[report.KindOpen] {
		w.t.Error("the report does not say that not everything is contained")
	}
}

// over looks at what is left when all of it is over.
func (w *greatEmergency) over(inc client.Incident) {
	w.t.Helper()
	if inc.ContainedAt.IsZero() || inc.ProvenAt.Before(inc.ContainedAt) {
		w.t.Errorf("contained at %q, proven at %q", inc.ContainedAt, inc.ProvenAt)
	}
	for _, name := range w.names {
		if w.oldWorks(name) {
			w.t.Errorf("the old key of %s works", name)
		}
		v := w.value(w.t, name)
		key := v.Fields["key"]
		ok := key != w.old[name] && (w.kind[name] == kindInternal && w.works(w.t, key) || w.kind[name] != kindInternal && w.apis[w.kind[name]].Works(key))
		if !ok {
			w.t.Errorf("version %d of %s, the current one, does not work, or is the old one", v.Version, name)
		}
	}
	for kind, api := range w.apis { // what was made while nobody heard of it is turned off, too
		w.until("no other key of "+kind+" works", func() bool { return len(api.Live()) == w.count(kind) })
	}
}
