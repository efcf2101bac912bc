package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// inboxes has a secret with a consumer behind a firewall, which listens nowhere, one that
// is given the value itself, and one whose role may do nothing.
const inboxes = `
consumer "app" {
  role = "shop"
  inbox {}
}
consumer "given" {
  role = "vault"
  inbox {
    payload = "plain"
  }
}
consumer "blind" {
  role = "nobody"
  inbox {
    payload = "plain"
  }
}
consumer "called" {
  role = "shop"
  webhook {
    url                   = "http://127.0.0.1:9"
    allow_private_network = true
  }
}
role "shop" {
  tenant   = "default"
  policies = ["reads"]
}
policy "reads" {
  path "app/*" {
    capabilities = ["read", "read_previous"]
  }
}
role "vault" {
  tenant   = "default"
  policies = ["reader"]
}
role "nobody" {
  tenant   = "default"
  policies = ["nothing"]
}
policy "nothing" {
  path "none" {
    capabilities = ["list"]
  }
}
`

// withInbox is the configuration in which app/key has consumers, and its overlap lasts
// until they have done what is required.
func withInbox(require string, consumers ...string) string {
	var names []string
	for _, c := range consumers {
		names = append(names, fmt.Sprintf("%q", c))
	}
	hcl := strings.ReplaceAll(embedded, "CONSUMERS", "  consumers = ["+strings.Join(names, ", ")+"]\n") + inboxes
	return strings.Replace(hcl, `  overlap = "2s"`, `  overlap = "100ms"
  acknowledgement {
    require    = "`+require+`"
    timeout    = "50m"
    on_timeout = "hold"
  }
  limits {
    max_overlap   = "1h"
    plain_payload = true
  }`, 1)
}

// collecting is a node with what waits in inboxes.
type collecting struct {
	*node
	t     *testing.T
	s     *site
	clock *skipping
}

func newCollecting(t *testing.T, require string, consumers ...string) *collecting {
	t.Helper()
	w := &collecting{t: t, s: newSite(t, withInbox(require, consumers...)), clock: &skipping{}}
	w.s.adjust = func(o *daemon.Options) { o.EngineClock(w.clock.now) }
	w.node = w.s.start()
	return w
}

// as is a client with nothing but a token of the role.
func (w *collecting) as(role string) *client.Client {
	w.t.Helper()
	return w.s.client(must(w.CreateToken(w.t.Context(), client.CreateTokenRequest{Name: role, Role: role}))(w.t).Token.Reveal(), w.addr)
}

// poll collects what there is within a time.
func poll(t *testing.T, c *client.Client, consumer string, wait time.Duration) []client.InboxItem {
	t.Helper()
	items, err := c.Inbox(t.Context(), consumer, client.InboxQuery{Wait: wait})
	if err != nil {
		t.Fatal(err)
	}
	return items
}

// one is the only message that there is, once there is one.
func one(t *testing.T, c *client.Client, consumer string, instance ...string) client.InboxItem {
	t.Helper()
	for range 3 {
		q := client.InboxQuery{Wait: 30 * time.Second, Instance: strings.Join(instance, "")}
		if items := must(c.Inbox(t.Context(), consumer, q))(t); len(items) == 1 {
			return items[0]
		} else if len(items) > 1 {
			t.Fatalf("%d messages", len(items))
		}
	}
	t.Fatal("there is no message")
	return client.InboxItem{}
}

// told is what a message says.
type saying struct {
	ID, Type string
	Data     struct {
		Audience, Secret, Payload, Href string
		Version                         int
		Generation                      int64
		Fields                          map[string]string
	}
}

// verified reads a message as a consumer does that knows the broker's address and its own
// name: by the keys that are published.
func (w *collecting) verified(consumer string, item client.InboxItem) saying {
	w.t.Helper()
	var public []backends.SecretString
	for _, k := range must(w.WebhookKeys(w.t.Context(), consumer))(w.t).Keys {
		public = append(public, backends.SecretString(k.StandardWebhooks))
	}
	body := []byte(item.Body.Reveal())
	if err := webhook.Verify(public, item.Header(), body, time.Now(), webhook.Tolerance); err != nil {
		w.t.Fatal(err)
	}
	var said saying
	if err := json.Unmarshal(body, &said); err != nil {
		w.t.Fatal(err)
	}
	if id := item.Headers[webhook.HeaderID]; id != item.Delivery || said.ID != id || said.Data.Audience != consumer || item.Headers["content-type"] != webhook.ContentType {
		w.t.Errorf("message %s of delivery %s to %s: %v", said.ID, item.Delivery, said.Data.Audience, item.Headers)
	}
	return said
}

// apply fetches what a message tells of, and says that it is used.
func (w *collecting) apply(c *client.Client, consumer string, item client.InboxItem) (saying, client.Delivery) {
	w.t.Helper()
	said := w.verified(consumer, item)
	v := must(c.Value(w.t.Context(), said.Data.Secret, said.Data.Version))(w.t)
	d, err := c.Acknowledge(w.t.Context(), item.Delivery, client.AcknowledgeRequest{Status: "applied", Generation: said.Data.Generation,
		Fingerprint: rotation.Fingerprint(item.Delivery, backends.NewValue(v.Fields))})
	if err != nil {
		w.t.Fatal(err)
	}
	return said, d
}

// begin starts a rotation and waits until what it publishes is held by the overlap.
func (w *collecting) begin(held bool) client.Rotation {
	w.t.Helper()
	r := must(w.Rotate(w.t.Context(), "app/key", client.RotateRequest{Reason: "test"}))(w.t)
	eventually(w.t, "the rotation waits for its consumers, or is over", func() bool {
		r = must(w.Rotation(w.t.Context(), r.ID))(w.t)
		return r.State == client.RotationDone || r.WaitingFor == string(rotation.WaitAcknowledgment)
	})
	if (r.State != client.RotationDone) != held {
		w.t.Fatalf("the rotation is %s, and waits for %q", r.State, r.WaitingFor)
	}
	return r
}

// A consumer that nobody can call gets what it needs by asking: with no port, and no
// permission but to read.
func TestConsumerBehindAFirewall(t *testing.T) {
	t.Parallel()
	w := newCollecting(t, "applied", "app")
	app := w.as("shop")
	waiting := make(chan client.InboxItem, 1)
	go func() { waiting <- one(t, app, "app") }()
	w.begin(false) // of the first version nothing is replaced
	first := <-waiting
	said, d := w.apply(app, "app", first)
	if said.Type != webhook.Type(rotation.EventRotated) || said.Data.Version != 1 || said.Data.Generation != 1 || said.Data.Fields != nil || d.State != client.DeliveryApplied {
		t.Errorf("%+v, and the delivery is %s", said, d.State)
	}

	r := w.begin(true)
	refused(t, "another rotation", second(w.Rotate(t.Context(), "app/key", client.RotateRequest{})), http.StatusConflict, "waits for consumers to acknowledge version 2, at most until ")
	item := one(t, app, "app")
	if _, err := app.Acknowledge(t.Context(), item.Delivery, client.AcknowledgeRequest{Status: "applied", Generation: 2, Fingerprint: strings.Repeat("00", 32)}); client.Status(err) != http.StatusConflict {
		t.Errorf("it says to use what it has not fetched: %v", err)
	}
	if said, d := w.apply(app, "app", item); said.Data.Generation != 2 || d.State != client.DeliveryApplied || d.FetchedAt.IsZero() {
		t.Errorf("%+v, and the delivery is %+v", said, d)
	}
	if r, _ := w.follow(t, r.ID); r.State != client.RotationDone {
		t.Errorf("%s: %s", r.State, r.Error)
	}
	records := must(w.Audit(t.Context(), client.AuditQuery{Action: "delivery.collect"}))(t)
	if len(records.Items) < 2 {
		t.Errorf("%d messages that were handed out are in the audit log", len(records.Items))
	}
}

// What its role reads counts as fetched, and nobody else's reading does.
func TestFetchingEndsTheOverlap(t *testing.T) {
	t.Parallel()
	w := newCollecting(t, "fetched", "app", "given")
	app, other := w.as("shop"), w.as("vault")
	w.begin(false)
	had := must(app.Value(t.Context(), "app/key", 0))(t)
	must(other.Value(t.Context(), "app/key", 0))(t)

	r := w.begin(true)
	w.value(t, "app/key") // root's
	must(app.Value(t.Context(), "app/key", 1))(t)
	fetched := func() map[string]time.Time {
		at := map[string]time.Time{}
		for _, d := range must(w.Deliveries(t.Context(), client.DeliveryQuery{Secret: "app/key"}))(t).Items {
			if d.Generation == 2 && d.Event == string(rotation.EventRotated) {
				at[d.Consumer] = d.FetchedAt
			}
		}
		return at
	}
	if at := fetched(); len(at) != 2 || !at["app"].IsZero() || !at["given"].IsZero() {
		t.Errorf("fetched by whom nobody told, or not the new version: %v", at)
	}
	now, changed, err := app.ValueIfChanged(t.Context(), "app/key", had)
	if err != nil || !changed {
		t.Fatalf("%t, %v", changed, err)
	}
	if at := fetched(); at["app"].IsZero() || !at["given"].IsZero() {
		t.Errorf("the role of one has read it: %v", at)
	}
	if r := must(w.Rotation(t.Context(), r.ID))(t); r.WaitingFor != string(rotation.WaitAcknowledgment) {
		t.Errorf("%s, waiting for %q, though one has fetched nothing", r.State, r.WaitingFor)
	}
	must(other.Value(t.Context(), "app/key", 2))(t)
	if r, _ := w.follow(t, r.ID); r.State != client.RotationDone {
		t.Errorf("%s: %s", r.State, r.Error)
	}
	if _, changed, err := app.ValueIfChanged(t.Context(), "app/key", now); err != nil {
		t.Errorf("%t, %v", changed, err)
	}
	reads := map[string]int{}
	for _, c := range must(w.SecretConsumers(t.Context(), "app/key"))(t).Consumers {
		if c.LastRead != nil {
			reads[c.Consumer] = c.LastRead.Version
		}
	}
	if reads["app"] != 2 || reads["given"] != 2 {
		t.Errorf("last read: %v", reads)
	}
}

// TestReadsGoOnWhereTheyCannotBeKept has the table of reads away for a while.
func TestReadsGoOnWhereTheyCannotBeKept(t *testing.T) {
	t.Parallel()
	w := newCollecting(t, "none", "app")
	app := w.as("shop")
	w.begin(false)
	db := w.s.database(t)
	rename := func(from, to string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), "ALTER TABLE "+from+" RENAME TO "+to); err != nil {
			t.Fatal(err)
		}
	}
	rename("consumer_reads", "away")
	v := must(app.Value(t.Context(), "app/key", 0))(t)
	if log := w.s.log.String(); !strings.Contains(log, "who has read a version cannot be kept") || strings.Contains(log, v.Fields["key"]) {
		t.Error("it is not in the log, or the value is")
	}
	rename("away", "consumer_reads")
	eventually(t, "a later read is kept", func() bool {
		must(app.Value(t.Context(), "app/key", 0))(t)
		d := must(w.Deliveries(t.Context(), client.DeliveryQuery{Consumer: "app"}))(t).Items[0]
		return !d.FetchedAt.IsZero()
	})
}

// Each instance collects, and says so itself; the audit log has who was given what.
func TestInboxOfInstances(t *testing.T) {
	t.Parallel()
	w := newCollecting(t, "applied", "app")
	w.s.hcl = replaced(t, w.s.hcl, "  role = \"shop\"\n  inbox {}", "  role = \"shop\"\n  instances = 2\n  inbox {}")
	w.reload(t)
	app := w.as("shop")
	collect := func(instance string) []client.InboxItem {
		t.Helper()
		return must(app.Inbox(t.Context(), "app", client.InboxQuery{Instance: instance}))(t)
	}
	applied := func(item client.InboxItem, instance string) client.Delivery {
		t.Helper()
		said := w.verified("app", item)
		v := must(app.Value(t.Context(), said.Data.Secret, said.Data.Version))(t)
		return must(app.Acknowledge(t.Context(), item.Delivery, client.AcknowledgeRequest{Status: "applied", Instance: instance, Generation: said.Data.Generation,
			Fingerprint: rotation.Fingerprint(item.Delivery, backends.NewValue(v.Fields))}))(t)
	}
	refused(t, "a name that is none", second(app.Inbox(t.Context(), "app", client.InboxQuery{Instance: "a\nb"})), http.StatusBadRequest, "control characters")
	w.begin(false)
	for _, instance := range []string{"a", "b"} {
		applied(one(t, app, "app", instance), instance)
	}
	r := w.begin(true)
	item := one(t, app, "app", "a")
	if d := applied(item, "a"); d.State != client.DeliveryPending || len(d.Acks) != 1 || d.Acks[0].Status != client.AckApplied {
		t.Errorf("one of two: %+v", d)
	}
	if again := append(collect("a"), collect("")...); len(again) != 0 {
		t.Errorf("it is handed out again to who has it: %d", len(again))
	}
	stream, leave := context.WithCancel(t.Context())
	defer leave()
	for next, err := range app.FollowInbox(stream, "app", "b", nil) {
		if err != nil || next.Delivery != item.Delivery {
			t.Fatalf("b is sent %s: %v", next.Delivery, err)
		}
		if d := applied(next, "b"); d.State != client.DeliveryApplied || len(d.Acks) != 2 {
			t.Errorf("both: %+v", d)
		}
		break
	}
	if r, _ := w.follow(t, r.ID); r.State != client.RotationDone {
		t.Errorf("%s: %s", r.State, r.Error)
	}
	given := map[string]bool{}
	for _, rec := range must(w.Audit(t.Context(), client.AuditQuery{Action: "delivery.collect"}))(t).Items {
		if given[rec.Detail["instance"]] = true; rec.Role != "shop" || rec.Method == "" || rec.Address != "127.0.0.1" || !strings.HasPrefix(rec.Actor, "tok_") || rec.Secret == "" {
			t.Errorf("the audit log does not say to whom it went: %+v", rec)
		}
	}
	if !given["a"] || !given["b"] {
		t.Errorf("collected by %v", given)
	}
}

func TestEmptyInboxIsAList(t *testing.T) {
	t.Parallel()
	w := newCollecting(t, "none", "app")
	for _, q := range []client.InboxQuery{{}, {Wait: 50 * time.Millisecond}} {
		if items := must(w.as("shop").Inbox(t.Context(), "app", q))(t); items == nil || len(items) > 0 { // null, or no member
			t.Errorf("%v: %#v", q, items)
		}
	}
}

// What is not acknowledged comes again, and is the same; what was superseded does not.
func TestInboxHandsOutAgain(t *testing.T) {
	t.Parallel()
	w := newCollecting(t, "none", "given")
	c := w.as("vault")
	w.begin(false)
	first := one(t, c, "given")
	if said := w.verified("given", first); said.Data.Fields["key"] == "" || said.Data.Fields["key"] != w.value(t, "app/key").Fields["key"] {
		t.Errorf("a plain message of %v", said.Data.Version)
	}
	if again := poll(t, c, "given", 0); len(again) != 0 {
		t.Errorf("it is handed out twice at once: %d", len(again))
	}
	w.clock.ahead.Add(int64(31 * time.Second))
	again := one(t, c, "given")
	if again.Delivery != first.Delivery || again.Body != first.Body {
		t.Errorf("delivery %s comes again as %s, or with another body", first.Delivery, again.Delivery)
	}
	w.verified("given", again)
	if d := must(w.Delivery(t.Context(), first.Delivery))(t); d.Attempts != 2 || d.State != client.DeliveryPending {
		t.Errorf("%+v", d)
	}

	w.begin(false) // while it is still out
	w.clock.ahead.Add(int64(31 * time.Second))
	newer := one(t, c, "given")
	if said := w.verified("given", newer); said.Data.Generation != 2 {
		t.Errorf("generation %d", said.Data.Generation)
	}
	if d := must(w.Delivery(t.Context(), first.Delivery))(t); d.State != client.DeliverySuperseded {
		t.Errorf("the first one is %s", d.State)
	}
	must(c.Acknowledge(t.Context(), newer.Delivery, client.AcknowledgeRequest{Status: "received", Generation: 2}))(t)
	seen := map[string]bool{}
	for range 10 { // what follows of version 1 tells of its end
		w.clock.ahead.Add(int64(31 * time.Second))
		for _, item := range poll(t, c, "given", 0) {
			said := w.verified("given", item)
			seen[said.Type] = true
			must(c.Acknowledge(t.Context(), item.Delivery, client.AcknowledgeRequest{Status: "received", Generation: said.Data.Generation}))(t)
		}
	}
	if seen[webhook.Type(rotation.EventRotated)] || !seen[webhook.Type(rotation.EventProvenDead)] {
		t.Errorf("after the second rotation was received: %v", seen)
	}
}

// A message goes to one of those who wait.
func TestTwoWhoPoll(t *testing.T) {
	t.Parallel()
	w := newCollecting(t, "none", "app")
	c := w.as("shop")
	var mu sync.Mutex
	var got []client.InboxItem
	var both sync.WaitGroup
	began := time.Now()
	for range 2 {
		both.Go(func() {
			items, err := c.Inbox(t.Context(), "app", client.InboxQuery{Wait: 8 * time.Second})
			mu.Lock()
			defer mu.Unlock()
			if got = append(got, items...); err != nil {
				t.Error(err)
			}
		})
	}
	w.begin(false)
	both.Wait()
	if len(got) != 1 || time.Since(began) < 8*time.Second {
		t.Errorf("%d messages after %s", len(got), time.Since(began))
	}
}

// The stream gives generations in their order, whatever is rotated meanwhile.
func TestInboxAsAStreamIsInOrder(t *testing.T) {
	t.Parallel()
	w := newCollecting(t, "none", "app")
	c := w.as("shop")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rotated := make(chan struct{})
	go func() {
		defer close(rotated)
		for range 3 {
			w.rotate(t, "app/key")
		}
	}()
	newest := int64(0)
	for item, err := range c.FollowInbox(ctx, "app", "", nil) {
		if err != nil {
			t.Fatal(err)
		}
		said := w.verified("app", item)
		if said.Type == webhook.Type(rotation.EventRotated) {
			if said.Data.Generation <= newest {
				t.Errorf("generation %d after %d", said.Data.Generation, newest)
			}
			newest = said.Data.Generation
		}
		must(c.Acknowledge(ctx, item.Delivery, client.AcknowledgeRequest{Status: "received", Generation: said.Data.Generation}))(t)
		if newest == 3 {
			break
		}
	}
	<-rotated
}

// To everybody but its role a consumer is not there, whatever they may do.
func TestInboxOfOthers(t *testing.T) {
	t.Parallel()
	w := newCollecting(t, "none", "app", "given", "blind")
	w.begin(false)
	ask := func(token, consumer, accept string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.addr+"/api/v1/consumers/"+consumer+"/inbox?wait=0s", nil)
		if accept != "" {
			r.URL.RawQuery = ""
		}
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var p client.Problem
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, strings.ReplaceAll(p.Detail, consumer, "X")
	}
	shop := must(w.CreateToken(t.Context(), client.CreateTokenRequest{Name: "shop", Role: "shop"}))(t).Token.Reveal()
	broken := must(w.CreateToken(t.Context(), client.CreateTokenRequest{Name: "all", Policies: []string{"root"}, TTL: "30m"}))(t).Token.Reveal()
	_, unknown := ask(shop, "no-such", "")
	for what, c := range map[string]struct{ token, consumer string }{
		"the root token":           {w.s.rootToken(), "app"},
		"who may do everything":    {broken, "app"},
		"another role":             {shop, "given"},
		"the role, of a webhook":   {shop, "called"},
		"a consumer of nobody":     {shop, "no-such"},
		"a name that is no header": {shop, "a%0Ab"},
	} {
		for _, accept := range []string{"", "text/event-stream"} {
			if status, detail := ask(c.token, c.consumer, accept); status != http.StatusNotFound || c.consumer != "a%0Ab" && detail != unknown {
				t.Errorf("%s: %d %q", what, status, detail)
			}
		}
	}

	// The role alone is no permission: whoever may make its tokens gets no value by that.
	blind := w.as("nobody")
	if items := poll(t, blind, "blind", 0); len(items) != 0 {
		t.Errorf("who may read nothing is given %d messages", len(items))
	}
	if d := must(w.Deliveries(t.Context(), client.DeliveryQuery{Consumer: "blind"}))(t).Items[0]; d.Attempts != 0 {
		t.Errorf("%+v", d)
	}
	if !strings.Contains(w.s.log.String(), "a message is not handed out") {
		t.Error("nobody is told why")
	}
}

// Who is nobody any more is given nothing, also who has waited since before.
func TestTokenThatEndsWhileItWaits(t *testing.T) {
	t.Parallel()
	w := newCollecting(t, "none", "app")
	token := must(w.CreateToken(t.Context(), client.CreateTokenRequest{Name: "shop", Role: "shop"}))(t)
	c := w.s.client(token.Token.Reveal(), w.addr)
	ended := make(chan error, 2)
	go func() {
		_, err := c.Inbox(t.Context(), "app", client.InboxQuery{Wait: time.Minute})
		ended <- err
	}()
	go func() {
		for _, err := range c.FollowInbox(t.Context(), "app", "", nil) {
			if ended <- err; err != nil {
				return
			}
		}
	}()
	eventually(t, "both wait", func() bool {
		return len(must(w.Audit(t.Context(), client.AuditQuery{Action: "consumer.inbox"}))(t).Items) >= 3 // the stream's has been answered
	})
	must(w.RevokeToken(t.Context(), token.ID))(t)
	w.begin(false)
	for range 2 {
		if err := <-ended; client.Status(err) != http.StatusUnauthorized {
			t.Errorf("%v", err)
		}
	}
	if d := must(w.Deliveries(t.Context(), client.DeliveryQuery{Consumer: "app"}))(t).Items[0]; d.Attempts != 0 {
		t.Errorf("it was handed out: %+v", d)
	}
}

// A node that stops keeps nobody waiting.
func TestStoppingEndsWhoWaits(t *testing.T) {
	t.Parallel()
	w := newCollecting(t, "none", "app")
	c := w.as("shop")
	ended := make(chan error, 1)
	go func() {
		items, err := c.Inbox(t.Context(), "app", client.InboxQuery{Wait: time.Minute})
		if len(items) > 0 {
			t.Errorf("%d messages", len(items))
		}
		ended <- err
	}()
	eventually(t, "somebody waits", func() bool {
		return len(must(w.Audit(t.Context(), client.AuditQuery{Action: "consumer.inbox"}))(t).Items) >= 1
	})
	began := time.Now()
	w.stop()
	if err := <-ended; err != nil || time.Since(began) > 20*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

// TestInboxOfTwoNodes waits at one node for what another one publishes, on PostgreSQL. Of
// two who wait at different nodes one gets it.
func TestInboxOfTwoNodes(t *testing.T) {
	t.Parallel()
	url := postgresserver.Start(t).URL
	hcl := onPostgres(withInbox("applied", "app"), filepath.Join(t.TempDir(), "seal.key"))
	var nodes []*collecting
	token := ""
	for range 2 {
		s := newSite(t, hcl)
		s.env, s.token = map[string]string{"DATABASE_URL": url}, token
		nodes = append(nodes, &collecting{node: s.start(), t: t, s: s})
		token = s.rootToken()
	}
	shop := must(nodes[0].CreateToken(t.Context(), client.CreateTokenRequest{Name: "shop", Role: "shop"}))(t).Token.Reveal()
	var mu sync.Mutex
	var got []client.InboxItem
	var both sync.WaitGroup
	for _, w := range nodes {
		c := w.s.client(shop, w.addr)
		both.Go(func() {
			items, err := c.Inbox(t.Context(), "app", client.InboxQuery{Wait: 15 * time.Second})
			mu.Lock()
			defer mu.Unlock()
			if got = append(got, items...); err != nil {
				t.Error(err)
			}
		})
	}
	nodes[0].begin(false)
	both.Wait()
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}
	if _, d := nodes[1].apply(nodes[1].s.client(shop, nodes[1].addr), "app", got[0]); d.State != client.DeliveryApplied || d.FetchedAt.IsZero() {
		t.Errorf("%+v", d)
	}
}
