package eventbridge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
	"github.com/keybroker/keybroker/rotation/trigger/eventbridge"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

// place is a queue of SQS with who asks it.
type place struct {
	t      *testing.T
	client *sqs.Client
	url    string
	queue  *eventbridge.Queue
	log    *bytes.Buffer
	took   []inbound.Event
}

func newPlace(t *testing.T) *place {
	t.Helper()
	s := motoserver.Shared(t)
	region := s.Region()
	p := &place{t: t, client: sqs.NewFromConfig(s.AWS(region)), log: &bytes.Buffer{}}
	made, err := p.client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("keybroker")})
	if err != nil {
		t.Fatal(err)
	}
	p.url = *made.QueueUrl
	cfg := eventbridge.Config{QueueURL: p.url, Conn: awsconn.Config{Region: region, Endpoint: s.URL, AccessKeyID: "AKIAKEYBROKERTESTING", SecretAccessKey: canary}}
	p.queue, err = eventbridge.Open(t.Context(), cfg, kept, hclog.New(&hclog.LoggerOptions{Output: p.log, Level: hclog.Trace}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.queue.Close)
	return p
}

func (p *place) send(bodies ...string) {
	p.t.Helper()
	for _, body := range bodies {
		if _, err := p.client.SendMessage(p.t.Context(), &sqs.SendMessageInput{QueueUrl: &p.url, MessageBody: &body}); err != nil {
			p.t.Fatal(err)
		}
	}
}

// poll asks the queue once; answer is what comes of each event.
func (p *place) poll(answer error) error {
	return p.queue.Poll(p.t.Context(), func(_ context.Context, e inbound.Event) error {
		p.took = append(p.took, e)
		return answer
	})
}

// expect compares how many messages are left: visible, and kept from others for a while.
func (p *place) expect(doing string, took, visible, hidden int) {
	p.t.Helper()
	out, err := p.client.GetQueueAttributes(p.t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &p.url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
	if err != nil {
		p.t.Fatal(err)
	}
	got := fmt.Sprintf("%d, %s, %s", len(p.took), out.Attributes["ApproximateNumberOfMessages"], out.Attributes["ApproximateNumberOfMessagesNotVisible"])
	if want := fmt.Sprintf("%d, %d, %d", took, visible, hidden); got != want {
		p.t.Errorf("%s: taken, visible and hidden are %s, want %s", doing, got, want)
	}
}

// seen has somebody else receive all messages that many times, who lets go of them at once.
func (p *place) seen(times int) {
	p.t.Helper()
	for range times {
		out, err := p.client.ReceiveMessage(p.t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &p.url, MaxNumberOfMessages: 10})
		if err != nil || len(out.Messages) == 0 {
			p.t.Fatal(len(out.Messages), err)
		}
		for _, m := range out.Messages {
			if _, err := p.client.ChangeMessageVisibility(p.t.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: &p.url, ReceiptHandle: m.ReceiptHandle, VisibilityTimeout: 0}); err != nil {
				p.t.Fatal(err)
			}
		}
	}
}

// TestMessagesAreDeletedOnceTaken, and kept where their events were not.
func TestMessagesAreDeletedOnceTaken(t *testing.T) {
	p := newPlace(t)
	p.send(file(t, "put_resource_policy.json"), file(t, "health_exposed.json"))
	if err := p.poll(nil); err != nil {
		t.Fatal(err)
	}
	p.expect("taken", 2, 0, 0)

	for _, why := range []error{backends.ErrUnavailable, backends.ErrNotFound, errors.New("something else")} {
		p := newPlace(t)
		p.send(file(t, "rotation_failed.json"))
		p.seen(20) // however often it came
		if err := p.poll(why); err != nil {
			t.Error(err)
		}
		p.expect(why.Error(), 1, 0, 1)
	}
}

// TestPoisonedMessages are recorded when they have come five times, and only then deleted.
func TestPoisonedMessages(t *testing.T) {
	p := newPlace(t)
	p.send(canary + " is no event")
	p.seen(3)
	if err := p.poll(nil); err != nil { // the fourth time
		t.Fatal(err)
	}
	p.expect("four times", 0, 0, 1)

	p = newPlace(t)
	p.send(canary + " is no event")
	p.seen(4)
	if err := p.poll(backends.ErrUnavailable); err == nil {
		t.Error("it was not recorded, and nobody is told")
	}
	p.expect("not recorded", 1, 0, 1)

	p = newPlace(t)
	p.send(canary+" is no event", file(t, "health_exposed.json"))
	p.seen(4)
	if err := p.poll(nil); err != nil {
		t.Fatal(err)
	}
	p.expect("five times", 2, 0, 0)
	var poisoned inbound.Event
	for _, e := range p.took {
		if len(e.Handles) == 0 {
			poisoned = e
		}
	}
	if !strings.HasPrefix(poisoned.ID, "sqs ") || !strings.Contains(poisoned.Reason, "cannot be read and was deleted after it came 5 times") || len(poisoned.Secrets) > 0 {
		t.Errorf("%+v", poisoned)
	}
	if shown := fmt.Sprintf("%+v", p.took) + p.log.String(); strings.Contains(shown, canary) {
		t.Errorf("what stood in it, or a credential, is shown: %s", shown)
	}
}

func TestQueueIsAway(t *testing.T) {
	p := newPlace(t)
	if _, err := p.client.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &p.url}); err != nil {
		t.Fatal(err)
	}
	if err := p.poll(nil); backends.Class(err) == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.queue.Poll(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestConfigurationMistakes(t *testing.T) {
	good := eventbridge.Config{QueueURL: "https://sqs.eu-central-1.amazonaws.com/123456789012/keybroker", Conn: awsconn.Config{Region: "eu-central-1"}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for says, change := range map[string]func(*eventbridge.Config){
		"queue_url is no URL of a queue": func(c *eventbridge.Config) { c.QueueURL = "keybroker" },
		"queue_url is no URL":            func(c *eventbridge.Config) { c.QueueURL = "https://u:" + canary + "@example.com/q" },
		"visibility is 5s":               func(c *eventbridge.Config) { c.Visibility = 5 * time.Second },
		`event_names.1 "PutSecretValue"`: func(c *eventbridge.Config) { c.EventNames = []string{"DeleteSecret", "PutSecretValue"} },
		"ignore_principals.0":            func(c *eventbridge.Config) { c.IgnorePrincipals = []string{"arn:["} },
		"region":                         func(c *eventbridge.Config) { c.Conn.Region = "" },
	} {
		c := good
		change(&c)
		if err := c.Validate(); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", says, err)
		}
		if _, err := eventbridge.Open(t.Context(), c, kept, hclog.NewNullLogger()); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%s: opened: %v", says, err)
		}
	}
}
