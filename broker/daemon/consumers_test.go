package daemon_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation"
)

// switched is a server that answers every request with the status that it is set to.
func switched(t *testing.T, status int) (url string, set func(int)) {
	t.Helper()
	var now atomic.Int64
	now.Store(int64(status))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(now.Load())) }))
	t.Cleanup(srv.Close)
	return srv.URL, func(status int) { now.Store(int64(status)) }
}

// twoInstances is a configuration with a consumer of two instances, which reads as a role.
func twoInstances(url string) string {
	return strings.Replace(strings.ReplaceAll(embedded, "CONSUMERS", "  consumers = [\"app\"]\n"), `overlap = "2s"`, `overlap = "1h"`, 1) + fmt.Sprintf(`
consumer "app" {
  role      = "app"
  instances = 2
  webhook {
    url                   = %q
    allow_private_network = true
  }
}
role "app" {
  tenant   = "default"
  policies = ["reader"]
}
policy "blind" {
  path "other/*" {
    capabilities = ["read", "update"]
  }
}
`, url)
}

// toldOf is the delivery that told app of a version.
func (n *node) toldOf(t *testing.T, version int) (found client.Delivery) {
	t.Helper()
	eventually(t, "the delivery to arrive", func() bool {
		for _, d := range must(n.Deliveries(t.Context(), client.DeliveryQuery{Consumer: "app", Event: string(rotation.EventRotated)}))(t).Items {
			if d.Version == version && !d.ReceivedAt.IsZero() {
				found = d
			}
		}
		return found.ID != ""
	})
	return found
}

// TestInstancesAcknowledge one by one, by their role and with what they have; until all
// have, the consumer uses the version of before.
func TestInstancesAcknowledge(t *testing.T) {
	t.Parallel()
	url, _ := switched(t, http.StatusNoContent)
	s := newSite(t, twoInstances(url))
	n := s.start()
	ctx := t.Context()
	app, _ := s.as(n, client.CreateTokenRequest{Role: "app"})
	reader, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"reader"}})
	blind, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"blind"}})
	says := func(d client.Delivery, instance string) client.AcknowledgeRequest {
		r := n.applied(t, d)
		r.Instance = instance
		return r
	}

	n.done(t, "app/key")
	first := n.toldOf(t, 1)
	for _, instance := range []string{"a", "b"} {
		must(app.Acknowledge(ctx, first.ID, says(first, instance)))(t)
	}
	n.begin(t, "app/key", client.RotationOverlap)
	next := n.toldOf(t, 2)
	good := says(next, "a")
	for what, c := range map[string]struct {
		by     *client.Client
		edit   func(*client.AcknowledgeRequest)
		status int
		words  string
	}{
		"an unknown status":         {app, func(r *client.AcknowledgeRequest) { r.Status = "gone" }, 400, "neither applied nor received"},
		"no generation":             {app, func(r *client.AcknowledgeRequest) { r.Generation = 0 }, 400, "generation is missing"},
		"another generation":        {app, func(r *client.AcknowledgeRequest) { r.Generation = 1 }, 409, "generation 2, not 1"},
		"no fingerprint":            {app, func(r *client.AcknowledgeRequest) { r.Fingerprint = "" }, 400, "fingerprint is missing"},
		"no fingerprint at all":     {app, func(r *client.AcknowledgeRequest) { r.Fingerprint = "f00" }, 400, "64 hexadecimal digits"},
		"that of another delivery":  {app, func(r *client.AcknowledgeRequest) { r.Fingerprint = says(first, "a").Fingerprint }, 409, "fingerprint"},
		"a name that breaks a line": {app, func(r *client.AcknowledgeRequest) { r.Instance = "a\nb" }, 400, "control characters"},
		"who is not the consumer":   {n.Client, func(*client.AcknowledgeRequest) {}, 403, "only the role of this consumer"},
		"who may only read":         {reader, func(*client.AcknowledgeRequest) {}, 403, "only the role of this consumer"},
		"who sees nothing of it":    {blind, func(*client.AcknowledgeRequest) {}, 404, "there is no delivery"},
	} {
		r := good
		c.edit(&r)
		refused(t, what, second(c.by.Acknowledge(ctx, next.ID, r)), c.status, c.words)
	}
	if d := must(app.Acknowledge(ctx, next.ID, client.AcknowledgeRequest{Status: client.AckReceived, Generation: 2}))(t); d.State != client.DeliveryReceived || len(d.Acks) != 0 {
		t.Errorf("received: %+v", d)
	}
	for range 2 { // saying it twice is saying it once
		if d := must(app.Acknowledge(ctx, next.ID, good))(t); d.State != client.DeliveryReceived || len(d.Acks) != 1 || d.Acks[0].Instance != "a" || d.Instances != 2 {
			t.Errorf("one of two: %+v", d)
		}
	}
	u := must(n.SecretConsumers(ctx, "app/key"))(t)
	if len(u.Consumers) != 1 || len(u.Old) != 1 {
		t.Fatalf("%+v", u)
	}
	if c := u.Consumers[0]; c.Version != 2 || c.Uses != 1 || !c.Old || len(c.Instances) != 1 || c.Wanted != 2 || c.DeliveryID != next.ID || u.Old[0].Version != 1 || len(u.Old[0].UsedBy) != 1 || u.Old[0].Until.IsZero() {
		t.Errorf("after one of two: %+v, old %+v", c, u.Old)
	}
	if d := must(app.Acknowledge(ctx, next.ID, says(next, "b")))(t); d.State != client.DeliveryApplied || len(d.Acks) != 2 || d.AppliedAt.IsZero() {
		t.Errorf("both: %+v", d)
	}
	u = must(reader.SecretConsumers(ctx, "app/key"))(t)
	if c := u.Consumers[0]; c.Uses != 2 || c.Old || len(u.Old[0].UsedBy) != 0 {
		t.Errorf("after both: %+v, old %+v", c, u.Old)
	}
	refused(t, "who sees nothing of the secret", second(blind.SecretConsumers(ctx, "app/key")), http.StatusForbidden, "not allowed")
	for _, r := range must(n.Audit(ctx, client.AuditQuery{Action: "delivery.acknowledge"}))(t).Items {
		if strings.Contains(fmt.Sprint(r), good.Fingerprint) {
			t.Errorf("the log has the fingerprint: %+v", r)
		}
	}
}

// TestATestIsOfItsConsumer and of no secret: who may see the consumer sees it, and who is
// the consumer.
func TestATestIsOfItsConsumer(t *testing.T) {
	t.Parallel()
	url, _ := switched(t, http.StatusNoContent)
	s := newSite(t, withConsumer(embedded, nil)+fmt.Sprintf(`
tenant "acme" {}
tenant "globex" {}
policy "everything" {
  path "*" {
    capabilities = ["list", "read", "rotate", "update"]
  }
  path "sys/*" {
    capabilities = ["list", "read", "update"]
  }
}
policy "secrets" {
  path "*" {
    capabilities = ["list", "read", "rotate", "update"]
  }
}
policy "nothing" {}
policy "tester" {
  path "sys/consumers/app" {
    capabilities = ["update"]
  }
}
role "app" {
  tenant   = "acme"
  policies = ["nothing"]
}
consumer "app" {
  tenant = "acme"
  role   = "app"
  webhook {
    url                   = %q
    allow_private_network = true
  }
}
`, url+"/hooks?of=CANARY"))
	n := s.start()
	ctx := t.Context()
	made := must(n.TestConsumer(ctx, "app", client.ConsumerRequest{Reason: "a drill"}))(t)
	n.told(t)
	for who, c := range map[string]struct {
		token    client.CreateTokenRequest
		consumer int // status of who asks for the consumer
		delivery int // for the delivery
		ack      int // to acknowledge that
	}{
		"who may see the consumer":                   {client.CreateTokenRequest{Tenant: "acme", Policies: []string{"everything"}}, 200, 200, 403},
		"who may see all of another tenant":          {client.CreateTokenRequest{Tenant: "globex", Policies: []string{"everything"}}, 404, 404, 404},
		"who may see all secrets, and not consumers": {client.CreateTokenRequest{Tenant: "acme", Policies: []string{"secrets"}}, 403, 404, 404},
		"who may make tests, and see nothing":        {client.CreateTokenRequest{Tenant: "acme", Policies: []string{"tester"}}, 403, 200, 403},
		"who is the consumer":                        {client.CreateTokenRequest{Role: "app"}, 403, 200, 200},
	} {
		as, _ := s.as(n, c.token)
		shown, err := as.Consumer(ctx, "app")
		if status := statusOf(err); status != c.consumer {
			t.Errorf("%s: the consumer: %d %v", who, status, err)
		} else if err == nil && (shown.Endpoint != url || len(shown.SigningKeys) != 1 || shown.LastDelivery == nil || shown.LastDelivery.ID != made.ID || strings.Contains(fmt.Sprint(shown), "CANARY")) {
			t.Errorf("%s sees %+v", who, shown)
		}
		listed := must(as.Consumers(ctx))(t).Items
		if (len(listed) == 1) != (c.consumer == 200) {
			t.Errorf("%s: listed are %+v", who, listed)
		}
		d, err := as.Delivery(ctx, made.ID)
		if status := statusOf(err); status != c.delivery || err == nil && (d.Secret != "" || d.Reason != "a drill" || d.State != client.DeliveryReceived) {
			t.Errorf("%s: the delivery: %d %v %+v", who, status, err, d)
		}
		if all := must(as.Deliveries(ctx, client.DeliveryQuery{Event: client.EventTest}))(t).Items; (len(all) == 1) != (c.delivery == 200) {
			t.Errorf("%s: deliveries %+v", who, all)
		}
		_, err = as.Acknowledge(ctx, made.ID, client.AcknowledgeRequest{Status: client.AckReceived})
		if statusOf(err) != c.ack {
			t.Errorf("%s: acknowledging: %v", who, err)
		}
		_, err = as.Replay(ctx, made.ID, client.InterventionRequest{})
		if want := map[bool]int{true: 409, false: 404}[c.delivery == 200]; statusOf(err) != want {
			t.Errorf("%s: delivering it again: %v", who, err)
		}
	}
	if log := s.log.String(); strings.Contains(log, "CANARY") {
		t.Error("the log has the token of the endpoint")
	}
}

func statusOf(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return client.Status(err)
}

// TestADisabledConsumerIsTold of to people, until somebody enables it.
func TestADisabledConsumerIsTold(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	url, answer := switched(t, http.StatusGone)
	s := alerted(t, withConsumer(embedded, &consumer{url: url}), p)
	s.env["SIGNING_SECRET"] = newSigningSecret().Reveal()
	n := s.start()
	ctx := t.Context()
	n.done(t, "app/key")
	eventually(t, "it is told", p.was("raised consumer_disabled"))
	open := n.alerts(t, client.AlertQuery{Kind: "consumer_disabled"})
	if len(open) != 1 || open[0].Subject != "app" || open[0].Tenant != backends.DefaultTenant || open[0].Severity != client.Failing || open[0].Next != "keybroker consumer enable app" {
		t.Errorf("open %+v", open)
	}
	c := must(n.Consumer(ctx, "app"))(t)
	if c.State != client.ConsumerDisabled || c.Detail == "" || c.Since.IsZero() {
		t.Errorf("%+v", c)
	}
	refused(t, "a test of it", second(n.TestConsumer(ctx, "app", client.ConsumerRequest{})), http.StatusConflict, "keybroker consumer enable app")
	answer(http.StatusNoContent)
	if c = must(n.EnableConsumer(ctx, "app", client.ConsumerRequest{Reason: "it is back"}))(t); c.State == client.ConsumerDisabled {
		t.Errorf("%+v", c)
	}
	eventually(t, "its end is told", p.was("resolved consumer_disabled"))
	must(n.TestConsumer(ctx, "app", client.ConsumerRequest{}))(t)
	n.told(t)
	if c = must(n.Consumer(ctx, "app"))(t); c.State != client.ConsumerTold || c.Waiting != 0 || c.LastDelivery.Event != client.EventTest {
		t.Errorf("%+v", c)
	}
}
