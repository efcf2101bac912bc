package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// pairs are the values of two fields that were made together.
type pairs struct {
	mu    sync.Mutex
	of    map[string]string // key → user
	reads int
	mixed map[string]int // where, how often
}

func (p *pairs) read(where, user, key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reads++
	if p.of[key] != user || user == "" {
		p.mixed[where]++
	}
}

// TestRule15FieldsArePublishedTogether: wherever a value of two fields is read, at
// any time, they belong together. Vault keeps what it ever held.
func TestRule15FieldsArePublishedTogether(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl = replaced(t, s.hcl, `overlap = "2s"`, quick, `fields = { key = "$.secret" }`, `fields = { key = "$.secret", user = "$.name" }`)
	made := &pairs{of: map[string]string{}, mixed: map[string]int{}}
	s.front(s.api.URL).do(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if r.Method != http.MethodPost {
			pass.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		pass.ServeHTTP(rec, r)
		var k struct{ Name, Secret string }
		if err := json.Unmarshal(rec.Body.Bytes(), &k); err == nil {
			made.mu.Lock()
			made.of[k.Secret] = k.Name
			made.mu.Unlock()
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	})
	n := s.start()
	n.done(t, mailer)
	kv := s.vault.Client(t).KVv2("secret")
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for where, read := range map[string]func() (user, key string){
		"the broker": func() (string, string) {
			v, err := n.Value(context.Background(), mailer, 0)
			if err != nil {
				return err.Error(), ""
			}
			if v.Previous != nil {
				made.read("the broker's previous version", v.Previous.Fields["user"], v.Previous.Fields["key"])
			}
			return v.Fields["user"], v.Fields["key"]
		},
		"the vault": func() (string, string) {
			v, err := kv.Get(context.Background(), "keybroker/"+mailer)
			if err != nil {
				return err.Error(), ""
			}
			return fmt.Sprint(v.Data["user"]), fmt.Sprint(v.Data["key"])
		},
		"the consumer": func() (string, string) {
			v, _ := s.app.Current(mailer)
			return v.Reveal()["user"], v.Reveal()["key"]
		},
	} {
		eventually(t, "a value at "+where, func() bool { _, key := read(); return key != "" })
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond): // others need the machine too
				}
				user, key := read()
				made.read(where, user, key)
			}
		})
	}
	n.done(t, mailer, mailer)
	eventually(t, "the last delivery", func() bool { _, generation := s.app.key(mailer); return generation == 3 })
	close(stop)
	readers.Wait()
	for version := 1; version <= 3; version++ {
		v, err := kv.GetVersion(t.Context(), "keybroker/"+mailer, version)
		if err != nil {
			t.Fatal(err)
		}
		made.read("the vault's history", fmt.Sprint(v.Data["user"]), fmt.Sprint(v.Data["key"]))
	}
	if _, err := kv.GetVersion(t.Context(), "keybroker/"+mailer, 4); err == nil {
		t.Error("three versions took more than three writes")
	}
	if len(made.of) != 3 || made.reads < 10 || len(made.mixed) > 0 {
		t.Errorf("of %d reads of %d values these were mixed: %v", made.reads, len(made.of), made.mixed)
	}
}

// TestRule16AStuckPendingVersionIsFoundShownAndRepaired makes what a lost commit would leave.
func TestRule16AStuckPendingVersionIsFoundShownAndRepaired(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	ctx := t.Context()
	o.done(t, mailer)
	o.api.Override(tried, http.StatusServiceUnavailable, always)
	id := o.begin(t, mailer, client.RotationVerifying)
	o.stop()
	exec(t, o.database(t), "UPDATE rotations SET state = 'cancelled', occupies = 0, ended_at = started_at, next_at = NULL, "+
		"record = replace(record, '\"state\":\"verifying\"', '\"state\":\"cancelled\"') WHERE id = '"+id+"'")
	o.api.Override(tried, 0, 0)
	o.node = o.start()
	o.done(t, mailer) // it blocks nobody
	if s := must(o.Secret(ctx, mailer))(t); len(s.Versions) != 3 || s.Versions[1].Stage != client.StagePending || s.Current() != 3 {
		t.Errorf("shown are %+v", s.Versions)
	}
	for _, dryRun := range []bool{true, false} {
		got := must(o.Repair(ctx, mailer, client.RepairRequest{DryRun: dryRun}))(t).Findings
		if len(got) != 1 || got[0].Kind != "pending" || got[0].Version != 2 || !got[0].Mendable || got[0].Mended == dryRun {
			t.Fatalf("dry run %v: %+v", dryRun, got)
		}
	}
	o.proven(t, mailer, 2)
	if live := o.api.Live(); len(live) != 1 {
		t.Errorf("the issuer has %+v", live)
	}
	if got := must(o.Repair(ctx, mailer, client.RepairRequest{}))(t).Findings; len(got) != 0 {
		t.Errorf("repaired, and still %+v", got)
	}
	o.done(t, mailer)
}

// arrivals are the generations that a consumer was told of, in the order in which
// it was, and whether one came while it was still busy with another.
type arrivals struct {
	mu       sync.Mutex
	of       []int64
	busy     bool
	together bool
}

func (a *arrivals) seen() []int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.of)
}

// count looks at the deliveries that pass, and answers them with status if that is not 0.
func (a *arrivals) count(status func() int) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		var body struct{ Data struct{ Generation int64 } }
		err := bodyOf(r, &body)
		a.mu.Lock()
		if err == nil {
			a.of = append(a.of, body.Data.Generation)
		}
		a.together = a.together || a.busy
		a.busy = true
		a.mu.Unlock()
		answer := status()
		a.mu.Lock()
		a.busy = false
		a.mu.Unlock()
		if answer != 0 {
			w.WriteHeader(answer)
			return
		}
		pass.ServeHTTP(w, r)
	}
}

// TestRule19AFailedDeliveryHoldsNobodyUpAndIsReplayed: it is dead-lettered in the
// end, visible, and sent again when somebody asks for it.
func TestRule19AFailedDeliveryHoldsNobodyUpAndIsReplayed(t *testing.T) {
	t.Parallel()
	o, broken := twoConsumers(t, `overlap = "1h"`)
	broken.answer(http.StatusServiceUnavailable, every)
	o.node = o.start()
	ctx := t.Context()
	o.done(t, mailer)
	var of map[string]client.Delivery
	eventually(t, "one delivery, and the failure of the other", func() bool {
		of = o.deliveriesOf(t, 1)
		return of["app"].State == client.DeliveryApplied && of["slow"].Attempts > 0 && of["slow"].Error != ""
	})
	if d := of["slow"]; d.State != client.DeliveryPending || !d.NextAttemptAt.After(time.Now()) || !strings.Contains(d.Error, "503") {
		t.Errorf("the failed one is %+v", d)
	}
	// The last but one of its attempts was made by now, and it is as old as that.
	o.stop()
	exec(t, o.database(t), "UPDATE deliveries SET attempts = 9, next_attempt_at = 1, since = 1 WHERE consumer = 'slow'")
	o.node = o.start()
	var dead []client.Delivery
	eventually(t, "it to be given up", func() bool {
		dead = must(o.Deliveries(ctx, client.DeliveryQuery{State: client.DeliveryDead}))(t).Items
		return len(dead) == 1
	})
	if d := dead[0]; d.ID != of["slow"].ID || d.Attempts != 10 || !strings.Contains(o.log.String(), "a delivery was given up") {
		t.Errorf("dead is %+v", d)
	}
	broken.do(nil)
	must(o.Replay(ctx, dead[0].ID, client.InterventionRequest{}))(t)
	eventually(t, "the replay", func() bool { return o.deliveriesOf(t, 1)["slow"].State == client.DeliveryReceived })
}

func TestRule19AnOlderGenerationNeverComesAfterANewerOne(t *testing.T) {
	t.Parallel()
	o, slow := twoConsumers(t, `overlap = "100ms"`)
	came, release, status := &arrivals{}, make(chan struct{}), http.StatusServiceUnavailable
	letGo := sync.OnceFunc(func() { close(release) })
	t.Cleanup(letGo)
	slow.do(came.count(func() int {
		if len(came.seen()) > 1 {
			return 0
		}
		<-release
		return status // the first one fails, so that it would be sent again
	}))
	o.node = o.start()
	o.done(t, mailer)
	eventually(t, "the first delivery to be under way", func() bool { return len(came.seen()) == 1 })
	began := time.Now()
	o.done(t, mailer, mailer) // which supersedes it
	eventually(t, "the other consumer to have the newest", func() bool { _, generation := o.app.key(mailer); return generation == 3 })
	// On a slow machine the first attempt may have ended by itself: then others may come, in order.
	gaveUp := time.Since(began) >= webhook.Timeout
	if got := came.seen(); !slices.Equal(got, []int64{1}) && !gaveUp {
		t.Errorf("while the first one was under way these came: %v", got)
	}
	letGo()
	eventually(t, "the newest one", func() bool { return o.deliveriesOf(t, 3)["slow"].State == client.DeliveryReceived })
	for generation, want := range map[int64]string{1: client.DeliverySuperseded, 2: client.DeliverySuperseded} {
		d := o.deliveriesOf(t, generation)["slow"]
		if d.State != want {
			t.Errorf("the delivery of generation %d is %s", generation, d.State)
		}
		refused(t, "replaying an older one", second(o.Replay(t.Context(), d.ID, client.InterventionRequest{})), http.StatusConflict, "generation 3 by now")
	}
	if got := came.seen(); gaveUp && (!slices.IsSorted(got) || got[len(got)-1] != 3) || !gaveUp && (!slices.Equal(got, []int64{1, 3}) || came.together) {
		t.Errorf("there came %v, side by side: %v", got, came.together)
	}
}

// hurry lets a rotation look again until it has left a state.
func (o *operated) hurry(t *testing.T, id, state string) {
	t.Helper()
	last := time.Time{}
	eventually(t, "a rotation that goes on", func() bool {
		if time.Since(last) > time.Second {
			last = time.Now()
			_, _ = o.Retry(t.Context(), id, client.InterventionRequest{}) // it may be at it
		}
		return must(o.Rotation(t.Context(), id))(t).State != state
	})
}

// TestRule20AVaultThatIsDownIsWaitedFor: reads go on, and the old key lives until the
// new one is published.
func TestRule20AVaultThatIsDownIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl = replaced(t, s.hcl, `overlap = "2s"`, quick, `  mount       = "secret"`, "  mount       = \"secret\"\n  limits {\n    timeout = \"1500ms\"\n  }")
	vault := s.front(s.vault.Addr)
	o := &operated{site: s.site, api: s.api, app: s.app}
	o.node = o.start()
	ctx := t.Context()
	o.done(t, mailer)
	old := s.direct(t)
	vault.answer(http.StatusServiceUnavailable, isWrite)
	id := must(o.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID
	eventually(t, "a write that fails", func() bool {
		rot := must(o.Rotation(ctx, id))(t)
		return rot.State == client.RotationPublishing && rot.WaitingFor == "backend"
	})
	vault.answer(http.StatusServiceUnavailable, every)
	if v := o.value(t, mailer); v.Version != 1 || v.Fields["key"] != old || !o.api.Works(old) || o.api.Requests(revoked) != 0 {
		t.Errorf("while the vault is down version %d is read; the old key works %v; %d were revoked", v.Version, o.api.Works(old), o.api.Requests(revoked))
	}
	if len(o.retirementsOf(t, mailer)) != 0 {
		t.Error("the old key is being retired before the new one is published")
	}
	vault.do(nil)
	o.hurry(t, id, client.RotationPublishing)
	rot, retirements := o.follow(t, id)
	if rot.State != client.RotationDone || retirements[1].RequestedAt.Before(rot.PublishedAt) || o.api.Works(old) || !o.api.Works(s.direct(t)) {
		t.Errorf("%s: published %s, revoked %s", rot.State, rot.PublishedAt, retirements[1].RequestedAt)
	}
}

func TestRule20AnIssuerThatIsDownIsWaitedFor(t *testing.T) {
	t.Parallel()
	o := newOperated(t)
	api := o.front(o.api.URL)
	o.node = o.start()
	ctx := t.Context()
	o.done(t, mailer)
	old := o.value(t, mailer).Fields["key"]
	var asked sync.Map
	api.do(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked.Store(r.Method, true)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	id := must(o.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID
	eventually(t, "failures at the issuer", func() bool {
		_, found := asked.Load(http.MethodGet) // looked for after the mint whose answer says nothing
		return found && must(o.Rotation(ctx, id))(t).NextAt.After(time.Now().Add(2*time.Second))
	})
	rot := must(o.Rotation(ctx, id))(t)
	if v := o.value(t, mailer); rot.State != client.RotationMinting || rot.WaitingFor != "issuer" || v.Fields["key"] != old || !o.api.Works(old) {
		t.Errorf("it is %s, waiting for %q; version %d is read", rot.State, rot.WaitingFor, v.Version)
	}
	api.do(nil)
	o.hurry(t, id, client.RotationMinting)
	if rot, _ := o.follow(t, id); rot.State != client.RotationDone || o.api.Works(old) {
		t.Errorf("%s: %s", rot.State, rot.Error)
	}
}
