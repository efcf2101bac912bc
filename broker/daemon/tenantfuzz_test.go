package daemon_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/httpapi"
)

// twoWorlds has a tenant acme, which asks, and a tenant globex, all of whose names
// have the word zorglub in them, so that it is found wherever it should not be.
const twoWorlds = `
listener "tcp" {
  address         = "ADDR"
  trusted_proxies = ["127.0.0.1/32"]
}
tenant "acme" {}
tenant "globex" {}
backend "local" "embedded" {}
backend "local" "zorglub-store" {
  tenant = "globex"
}
issuer "api_key" "internal" {}
issuer "api_key" "zorglub-issuer" {
  tenant = "globex"
}
probe "http" "internal" {
  PROBE
}
probe "http" "zorglub-probe" {
  tenant = "globex"
  PROBE
}
rotation_policy "quick" {
  match {
    paths = ["*"]
  }
  overlap = "1s"
  verify {
    successes = 1
    interval  = "50ms"
  }
  confirm {
    rejections = 2
    window     = "100ms"
  }
  limits {
    plain_payload = true
  }
}
trigger "api" "ci" {
  action  = "rotate"
  secrets = ["app/*"]
}
trigger "api" "zorglub-ci" {
  tenant  = "globex"
  action  = "rotate"
  secrets = ["zorglub/*"]
}
secret "app/key" {
  tenant    = "acme"
  backend   = "embedded"
  probe     = "internal"
  consumers = ["app"]
  issuer "internal" {}
}
secret "app/key" {
  tenant  = "globex"
  backend = "embedded"
  probe   = "internal"
  labels  = { team = "zorglub" }
  issuer "internal" {}
}
secret "app/zorglub" {
  tenant  = "globex"
  backend = "embedded"
  probe   = "internal"
  issuer "internal" {}
}
secret "zorglub/key" {
  tenant    = "globex"
  backend   = "zorglub-store"
  probe     = "zorglub-probe"
  consumers = ["zorglub-app"]
  issuer "zorglub-issuer" {}
}
consumer "app" {
  tenant = "acme"
  webhook {
    url                   = "CONSUMER"
    payload               = "plain"
    allow_private_network = true
    signing_secret        = env("SIGNING_SECRET")
  }
}
consumer "zorglub-app" {
  tenant = "globex"
  webhook {
    url                   = "CONSUMER"
    payload               = "plain"
    allow_private_network = true
    signing_secret        = env("SIGNING_SECRET")
  }
}
notifier "log" "zorglub-pager" {
  tenant = "globex"
}
policy "reader" {
  path "app/*" {
    capabilities = ["list", "read"]
  }
}
policy "tenant" {
  path "*" {
    capabilities = ["list", "read", "rotate", "update"]
  }
  path "sys/*" {
    capabilities = ["create", "delete", "list", "read", "update"]
  }
}
role "zorglub-role" {
  tenant   = "globex"
  policies = ["tenant"]
}
`

const probeOfWorlds = `method                = "POST"
  url                   = "http://ADDR/api/v1/keys/check"
  headers               = { Authorization = "Bearer ${field.key}" }
  allow_private_network = true
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }`

// pair is something of globex, and what is like it and is not there at all.
type pair struct{ theirs, missing string }

// worlds is a node with two tenants, and what globex has.
type worlds struct {
	*site
	t       testing.TB
	n       *node
	acme    []string          // tokens, of different rights
	own     map[string]bool   // ids of acme's tokens
	things  map[string][]pair // by what it is: "secret", "rotation", …
	markers []string          // what acme must never read
	http    *http.Client
	asked   int
	before  string // what globex has
}

func newWorlds(t testing.TB) *worlds {
	t.Helper()
	secret := newSigningSecret()
	s := newSite(t, "")
	s.hcl = strings.NewReplacer("ADDR", s.addr).Replace(strings.NewReplacer("PROBE", probeOfWorlds, "CONSUMER", newConsumer(t, secret).url).Replace(twoWorlds))
	s.env["SIGNING_SECRET"] = secret.Reveal()
	w := &worlds{site: s, t: t, n: s.start(), things: map[string][]pair{}, own: map[string]bool{}, http: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(w.http.CloseIdleConnections)
	for _, name := range []string{"acme:app/key", "globex:app/key", "globex:app/zorglub", "globex:zorglub/key", "globex:zorglub/key"} {
		why := "zorglub wants it"
		if strings.HasPrefix(name, "acme") {
			why = "acme wants it"
		}
		r, err := w.n.Rotate(context.Background(), name, client.RotateRequest{Reason: why})
		w.must(err)
		if rot, _ := w.n.follow(t, r.ID); rot.State != client.RotationDone {
			t.Fatalf("%s: %s", name, rot.State)
		}
	}
	w.n.told(t)
	// An incident that turns nothing off: what it is about is dead.
	eventually(t, "the death of what was replaced", func() bool {
		list, err := w.n.Retirements(context.Background(), client.RetirementQuery{Secret: "globex:zorglub/key"})
		return err == nil && len(list.Items) == 1 && list.Items[0].State == client.ProvenDead
	})
	_, err := w.n.DeclareIncident(context.Background(), client.IncidentRequest{Reason: "zorglub has leaked it", Selector: client.Selector{Names: []string{"globex:zorglub/key"}, Versions: []int{1}}})
	w.must(err)
	w.inhabit()
	w.collect()
	_, err = w.n.Freeze(t.Context(), client.InterventionRequest{Reason: "zorglub is on holiday"})
	w.must(err) // so that nothing moves by itself
	w.before = w.theirs()
	return w
}

func (w *worlds) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *worlds) token(r client.CreateTokenRequest) client.Token {
	w.t.Helper()
	tok, err := w.n.CreateToken(w.t.Context(), r)
	w.must(err)
	return tok
}

// inhabit makes the tokens of both, of which globex' have done something.
func (w *worlds) inhabit() {
	w.t.Helper()
	begun, err := w.n.Event(w.t.Context(), "zorglub-ci", client.EventRequest{ID: "zorglub-1", Secret: "globex:zorglub/key", Reason: "zorglub says so"})
	w.must(err)
	w.n.follow(w.t, begun.ID)
	for _, policies := range [][]string{{"root"}, {"tenant"}, {"reader"}} {
		w.acme = append(w.acme, w.fresh(policies...))
	}
	safe := w.token(client.CreateTokenRequest{Name: "zorglub-safe", Role: "zorglub-role", BreakGlass: true})
	worker := w.token(client.CreateTokenRequest{Name: "zorglub-worker", Tenant: "globex", Policies: []string{"tenant"}})
	for _, tok := range []client.Token{safe, worker} {
		c := w.client(tok.Token.Reveal(), w.n.addr)
		_, err := c.Value(w.t.Context(), "zorglub/key", 0)
		w.must(err)
		w.markers = append(w.markers, tok.Token.Reveal())
		w.things["leaked"] = append(w.things["leaked"], pair{tok.Token.Reveal(), unlike(tok.Token.Reveal())})
	}
	for _, name := range []string{"globex:app/key", "globex:app/zorglub", "globex:zorglub/key"} {
		key := w.n.value(w.t, name).Fields["key"]
		w.markers = append(w.markers, key)
		w.things["leaked"] = append(w.things["leaked"], pair{key, unlike(key)}, pair{"KEY=" + key, "KEY=" + unlike(key)})
	}
}

// fresh makes a token of acme.
func (w *worlds) fresh(policies ...string) string {
	w.t.Helper()
	tok := w.token(client.CreateTokenRequest{Name: "acme", Tenant: "acme", Policies: policies})
	w.own[tok.ID] = true
	return tok.Token.Reveal()
}

// unlike is an id, or a cursor, as that one, and another.
func unlike(id string) string {
	last := "0"
	if strings.HasSuffix(id, last) {
		last = "1"
	}
	return id[:len(id)-1] + last
}

// collect finds out by the root token what globex has.
func (w *worlds) collect() {
	w.t.Helper()
	for kind, path := range map[string]string{"rotation": "rotations", "retirement": "retirements", "delivery": "deliveries", "token": "tokens", "alert": "alerts", "event": "events", "incident": "incidents"} {
		for _, item := range w.items(path) {
			if item["tenant"] == "globex" {
				id := item["id"].(string)
				w.things[kind] = append(w.things[kind], pair{id, unlike(id)})
				w.markers = append(w.markers, id)
			}
		}
		if len(w.things[kind]) == 0 {
			w.t.Fatalf("globex has no %s", kind)
		}
	}
	for _, r := range w.items("audit?tenant=globex&limit=1000") {
		if id, ok := r["request"].(string); ok && id != "" {
			w.things["request"] = append(w.things["request"], pair{id, unlike(id)})
		}
	}
	w.markers = append(w.markers, "zorglub", "globex")
	for kind, pairs := range map[string][]pair{
		"secret": {{"globex:zorglub/key", "globex:zorglub/nix"}, {"zorglub/key", "zorglub/nix"}, {"app/zorglub", "app/nosuchx"}, {"globex:app/key", "globexx:app/key"},
			{"acme:zorglub/key", "acme:zorglub/nix"}, {"GLOBEX:zorglub/key", "GLOBEX:zorglub/nix"}, {"globex:acme:app/key", "globexx:acme:app/key"}, {":zorglub/key", ":zorglub/nix"}},
		"prefix":   {{"zorglub/", "zorglux/"}, {"globex:", "globexx:"}, {"globex:zorglub", "globexx:zorglub"}, {"app/z", "app/y"}},
		"consumer": {{"zorglub-app", "zorglub-apx"}},
		"backend":  {{"zorglub-store", "zorglub-storx"}},
		"trigger":  {{"zorglub-ci", "zorglub-cx"}},
		"notifier": {{"zorglub-pager", "zorglub-pagex"}},
		"issuer":   {{"zorglub-issuer", "zorglub-issuex"}},
		"probe":    {{"zorglub-probe", "zorglub-probx"}},
		"role":     {{"zorglub-role", "zorglub-rolx"}},
		"tenant":   {{"globex", "globexx"}},
		"method":   {{"globex", "globexx"}},
		"path":     {{"zorglub/key", "zorglub/nix"}, {"sys/events/zorglub-ci", "sys/events/zorglub-cx"}},
	} {
		w.things[kind] = pairs
	}
	for _, path := range []string{"secrets", "rotations", "retirements", "deliveries", "tokens", "alerts", "events", "incidents", "drift?all=true"} {
		for _, c := range w.cursors(path) {
			raw, err := base64.RawURLEncoding.DecodeString(c)
			w.must(err)
			other := bytes.Replace(raw, []byte("globex"), []byte("globey"), 1)
			if bytes.Equal(raw, other) {
				other[len(other)-3] ^= 1
			}
			w.things["after"] = append(w.things["after"], pair{c, base64.RawURLEncoding.EncodeToString(other)})
		}
	}
}

// items lists as the root token.
func (w *worlds) items(path string) []map[string]any {
	w.t.Helper()
	var list struct{ Items []map[string]any }
	status, answer := w.get(http.MethodGet, "/api/v1/"+path, w.rootToken())
	if err := json.Unmarshal([]byte(answer), &list); err != nil || status != http.StatusOK {
		w.t.Fatalf("%s: %d %s", path, status, answer)
	}
	return list.Items
}

// cursors are those after what globex has in a list of all tenants.
func (w *worlds) cursors(path string) (found []string) {
	w.t.Helper()
	more := "?"
	if strings.Contains(path, "?") {
		more = "&"
	}
	after := ""
	for {
		var list struct {
			Items []struct{ Tenant string }
			Next  string
		}
		_, answer := w.get(http.MethodGet, "/api/v1/"+path+more+"limit=1"+after, w.rootToken())
		w.must(json.Unmarshal([]byte(answer), &list))
		if list.Next == "" {
			return found
		}
		if list.Items[0].Tenant == "globex" {
			found = append(found, list.Next)
		}
		after = "&after=" + url.QueryEscape(list.Next)
	}
}

// theirs is all that globex has, but for what moves by itself.
func (w *worlds) theirs() string {
	w.t.Helper()
	var all []string
	for _, path := range []string{"secrets", "rotations", "retirements", "deliveries", "drift?all=true", "tokens?limit=1000", "alerts?all=true", "incidents"} {
		for _, item := range w.items(path) {
			if item["tenant"] == "globex" {
				text, err := json.Marshal(item)
				w.must(err)
				all = append(all, still(w.t, string(text)))
			}
		}
	}
	_, frozen := w.get(http.MethodGet, "/api/v1/sys/freeze", w.rootToken())
	return strings.Join(append(all, frozen), "\n")
}

// dice decide what is asked: they are the bytes of a fuzzer.
type dice struct {
	bytes []byte
	at    int
}

func (d *dice) throw(sides int) int {
	if d.at++; d.at > len(d.bytes) || sides == 0 {
		return 0
	}
	return int(d.bytes[d.at-1]) % sides
}

// question is a request of acme's; given are the texts in it that are not acme's.
type question struct {
	method, path string
	query        url.Values
	header       http.Header
	body         map[string]any
	given        []string
}

// asking makes the request that the dice say: about what is globex', or about what is
// not there in the same place.
func (w *worlds) asking(endpoints []httpapi.Endpoint, d *dice, theirs bool) question {
	e := endpoints[d.throw(len(endpoints))]
	q := question{method: e.Method, query: url.Values{}, header: http.Header{}, body: map[string]any{}}
	pick := func(kind string) string {
		p := w.things[kind][d.throw(len(w.things[kind]))]
		text := p.missing
		if theirs {
			text = p.theirs
		}
		q.given = append(q.given, text)
		return text
	}
	ownSecret := d.throw(4) == 0 && (strings.Contains(e.Pattern, "/drift/") || strings.HasSuffix(e.Pattern, "/repair") || strings.HasSuffix(e.Pattern, "/import"))
	ownComponent := strings.HasSuffix(e.Pattern, "{name}/check") || strings.HasSuffix(e.Pattern, "{name}/run")
	ownComponent = ownComponent && d.throw(2) == 0
	q.path = placeholder.ReplaceAllStringFunc(e.Pattern, func(key string) string {
		if ownSecret {
			return "app%2Fkey"
		}
		if ownComponent {
			return "internal"
		}
		return encoded(pick(kindOfPlace(e.Pattern, key)), d.throw(8))
	})
	for _, p := range e.Query {
		if d.throw(2) == 0 {
			continue
		}
		switch {
		case w.things[p.Name] != nil:
			q.query.Set(p.Name, pick(p.Name))
		case p.Name == "actor":
			q.query.Set(p.Name, pick("token"))
		case p.Type == "integer":
			q.query.Set(p.Name, "1")
		case p.Type == "boolean":
			q.query.Set(p.Name, "true")
		}
	}
	if e.Body != nil {
		w.fill(q.body, e.Body, d, pick)
		if e.Body == reflect.TypeFor[client.IncidentRequest]() {
			q.body["dry_run"] = true // acme's own are turned off often enough
		}
	}
	for _, name := range []string{"X-Keybroker-Role", "X-Tenant", "X-Vault-Namespace", "X-Original-Url", "If-None-Match"} {
		if d.throw(8) == 1 {
			q.header.Set(name, map[string]string{"X-Keybroker-Role": "zorglub-role", "X-Original-Url": "/api/v1/secrets/globex:zorglub%2Fkey"}[name])
			if q.header.Get(name) == "" {
				q.header.Set(name, "globex")
			}
		}
	}
	return q
}

var placeholder = regexp.MustCompile(`\{[a-z]+\}`)

// kindOfPlace tells what a pattern has a placeholder for.
func kindOfPlace(pattern, key string) string {
	for prefix, kind := range map[string]string{"secrets": "secret", "rotations": "rotation", "retirements": "retirement", "deliveries": "delivery",
		"tokens": "token", "alerts": "alert", "notifiers": "notifier", "issuers": "issuer", "probes": "probe", "events": "trigger", "events/received": "event", "triggers": "trigger", "hooks": "trigger", "auth": "method", "consumers": "consumer", "incidents": "incident"} {
		if strings.HasPrefix(pattern, "/api/v1/"+prefix+"/"+key) {
			return kind
		}
	}
	panic("what is " + key + " in " + pattern + "?")
}

// encoded writes a name into a path.
func encoded(name string, how int) string {
	switch how {
	case 1:
		return name
	case 2:
		return url.PathEscape(url.PathEscape(name))
	case 3:
		var all strings.Builder
		for _, b := range []byte(name) {
			fmt.Fprintf(&all, "%%%02x", b)
		}
		return all.String()
	case 4:
		return strings.ReplaceAll(url.PathEscape(name), ":", "%3A")
	case 5:
		return url.PathEscape(name + "\x00")
	case 6:
		return url.PathEscape(" " + name)
	}
	return url.PathEscape(name)
}

// fill gives the fields of a body what is not acme's, or what is plausible.
func (w *worlds) fill(body map[string]any, of reflect.Type, d *dice, pick func(string) string) {
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous {
			w.fill(body, f.Type, d, pick)
			continue
		}
		if name == "" || name == "-" || d.throw(4) == 0 {
			continue
		}
		switch quarantine := of == reflect.TypeFor[client.QuarantineRequest](); {
		case of == reflect.TypeFor[client.IncidentRequest]() && (name == "id" || name == "dry_run"): // see asking
		case quarantine && name == "kind":
			kind := []string{"consumer", "role"}[d.throw(2)]
			body[name], body["name"] = kind, pick(kind)
		case quarantine && name == "name" && body[name] != nil: // it is that of the kind
		case w.things[name] != nil:
			body[name] = pick(name)
		case name == "reason", name == "name":
			body[name] = "acme's own"
		case name == "text":
			body[name] = pick("secret")
		case name == "value":
			body[name] = pick("leaked")
		case name == "policies":
			body[name] = []string{"reader"}
		case name == "key", name == "jwt", name == "expect": // what one has, one has
		case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[time.Time]():
			inner := map[string]any{}
			w.fill(inner, f.Type, d, pick)
			body[name] = inner
		case name == "names" || name == "consumers" || name == "roles" || name == "patterns":
			body[name] = []string{pick(cmp.Or(map[string]string{"consumers": "consumer", "roles": "role"}[name], "secret"))}
		case f.Type.Kind() == reflect.Bool:
			body[name] = d.throw(2) == 0
		case f.Type.Kind() == reflect.Int || f.Type.Kind() == reflect.Int64:
			body[name] = 1
		case f.Type.Kind() == reflect.String:
			body[name] = pick([]string{"secret", "rotation", "retirement", "delivery", "token", "alert"}[d.throw(6)])
		}
	}
}

// ask sends it, and returns the answer as it would be whatever it was asked about.
func (w *worlds) ask(q question, token string) (status int, answer string) {
	w.t.Helper()
	if strings.HasSuffix(q.path, "/tokens/self") && q.method == http.MethodDelete {
		token = w.fresh("root")
	}
	var body io.Reader
	if len(q.body) > 0 {
		text, err := json.Marshal(q.body)
		w.must(err)
		body = bytes.NewReader(text)
	}
	target := "http://" + w.addr + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, q.method, target, body)
	w.must(err)
	r.Header = q.header.Clone()
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("X-Forwarded-For", fmt.Sprintf("10.%d.%d.%d", w.asked>>16&255, w.asked>>8&255, w.asked&255)) // failed logins from one address are slowed down
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := w.http.Do(r)
	w.must(err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	w.must(err)
	w.asked++
	text := string(raw)
	if q.path == "/api/v1/audit" && resp.StatusCode == http.StatusOK {
		text = w.withoutOwn(text)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type") + " " + resp.Header.Get("Etag") + " " + q.plain(text)
}

// withoutOwn takes out of the audit log what acme has said there itself.
func (w *worlds) withoutOwn(answer string) string {
	var list client.List[client.AuditRecord]
	w.must(json.Unmarshal([]byte(answer), &list))
	list.Next = ""
	var out []client.AuditRecord
	for _, r := range list.Items {
		if w.own[r.Actor] {
			r.Detail, r.Path, r.Rule = nil, "", ""
			if r.Secret != "" && !strings.HasPrefix(r.Secret, "acme:") {
				out = append(out, r) // it was found, and is not acme's
			}
			continue
		}
		out = append(out, r)
	}
	list.Items = out
	text, err := json.Marshal(list)
	w.must(err)
	return string(text)
}

var varying = []struct {
	is *regexp.Regexp
	as string
}{
	{regexp.MustCompile(`hmac-sha256:[0-9a-f]+`), "HASH"},
	{regexp.MustCompile(`kbt_[A-Za-z0-9]+`), "TOKEN"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
}

// plain is an answer without what the caller itself has said in its request, in any
// form that this comes back in.
func (q question) plain(answer string) string {
	var said []string
	for _, text := range q.given {
		for _, form := range []string{text, url.PathEscape(text), strings.ReplaceAll(url.PathEscape(text), ":", "%3A"), text + "\x00", " " + text} {
			said = append(said, form)
			if _, bare, ok := strings.Cut(form, ":"); ok {
				said = append(said, bare)
			}
		}
	}
	slices.SortFunc(said, func(a, b string) int { return len(b) - len(a) })
	for _, text := range said {
		quoted, _ := json.Marshal(text) // text
		inner := strings.Trim(string(quoted), `"`)
		again, _ := json.Marshal(strings.Trim(fmt.Sprintf("%q", text), `"`)) // as %q of an error, in JSON
		for _, form := range []string{strings.Trim(string(again), `"`), inner, text} {
			if form != "" {
				answer = strings.ReplaceAll(answer, form, "GIVEN")
			}
		}
	}
	return answer
}

// try asks about what is globex' and, before and after that, about what is not there.
func (w *worlds) try(endpoints []httpapi.Endpoint, throws []byte) {
	w.t.Helper()
	d := func() *dice { return &dice{bytes: throws} }
	who := d()
	token := w.acme[who.throw(len(w.acme))]
	rest := throws[min(1, len(throws)):]
	missing, theirs := w.asking(endpoints, &dice{bytes: rest}, false), w.asking(endpoints, &dice{bytes: rest}, true)
	status, answer := w.ask(missing, token)
	got, about := w.ask(theirs, token)
	status2, answer2 := w.ask(missing, token)
	for _, m := range w.markers {
		if strings.Contains(about, m) {
			w.t.Errorf("acme was told %q of globex, by %d %s\nasking %+v", m, got, about, theirs)
		}
	}
	same := func(a string) string {
		for _, v := range varying {
			a = v.is.ReplaceAllString(a, v.as)
		}
		return a
	}
	if status != status2 || same(answer) != same(answer2) {
		return // it changes by itself
	}
	if got != status || same(about) != same(answer) {
		w.t.Errorf("it can be told apart from what is not there:\n%d %s\n%d %s\nasking %+v\nand %+v", got, about, status, answer, theirs, missing)
	}
}

// unchanged makes sure that globex has what it had.
func (w *worlds) unchanged() {
	w.t.Helper()
	if now := w.theirs(); now != w.before {
		w.t.Errorf("globex has changed from\n%s\nto\n%s", w.before, now)
		w.before = now
	}
}

// ofTenants are the endpoints whose answers are of tenants. Public keys are everybody's.
func ofTenants() []httpapi.Endpoint {
	return slices.DeleteFunc(httpapi.Endpoints(), func(e httpapi.Endpoint) bool { return strings.HasPrefix(e.Pattern, "/.well-known/") })
}

// TestTenantsSeeNothingOfEachOther asks every endpoint about what another tenant has,
// in every place and form: the answers are those about what is not there.
func TestTenantsSeeNothingOfEachOther(t *testing.T) {
	t.Parallel()
	w := newWorlds(t)
	endpoints := ofTenants()
	r := rand.New(rand.NewPCG(5, 0))
	for i, e := range endpoints {
		for who := range w.acme {
			for range 4 {
				throws := make([]byte, 48)
				for j := range throws {
					throws[j] = byte(r.Uint32())
				}
				throws[0], throws[1] = byte(who), byte(i)
				w.try(endpoints, throws)
			}
		}
		w.unchanged()
		if t.Failed() {
			t.Logf("by %s %s", e.Method, e.Pattern)
		}
	}
	// Lists are of what is one's own, whatever is asked.
	for path, least := range map[string]int{"secrets": 1, "rotations": 1, "deliveries": 1, "tokens": 3, "audit": 1, "drift?all=true": 1, "consumers": 1, "quarantine": 0, "retirements": 0, "alerts?all=true": 0, "incidents": 0} {
		var list struct{ Items []map[string]any }
		_, answer := w.get(http.MethodGet, "/api/v1/"+path, w.acme[0])
		if err := json.Unmarshal([]byte(answer), &list); err != nil || len(list.Items) < least {
			t.Errorf("%s: %s", path, answer)
		}
		for _, item := range list.Items {
			if item["tenant"] != "acme" {
				t.Errorf("%s: %v", path, item)
			}
		}
	}
	t.Logf("%d requests, about %d things of globex", w.asked, len(slices.Concat(slices.Collect(maps.Values(w.things))...)))
}

func FuzzTenants(f *testing.F) {
	endpoints := ofTenants()
	r := rand.New(rand.NewPCG(5, 1))
	for i := range endpoints {
		throws := make([]byte, 48)
		for j := range throws {
			throws[j] = byte(r.Uint32())
		}
		throws[1] = byte(i)
		f.Add(throws)
	}
	w := newWorlds(f)
	f.Fuzz(func(t *testing.T, throws []byte) {
		w.t, w.site.t = t, t
		defer func() { w.t, w.site.t = f, f }()
		w.try(endpoints, throws)
		w.unchanged()
	})
}
