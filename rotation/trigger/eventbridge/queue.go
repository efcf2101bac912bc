// Package eventbridge takes events of Amazon EventBridge out of a queue of Amazon SQS.
//
// Who may send is what the queue's policy says: messages are not signed. A message is
// deleted only when its event has been taken; until then it comes back after the visibility
// timeout. One that cannot be read is recorded and deleted when it has come MaxReceives
// times.
package eventbridge

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const (
	longestWait       = 20 * time.Second // of a request (SQS API reference, ReceiveMessage)
	defaultVisibility = time.Minute
	leastVisibility   = 10 * time.Second
	mostVisibility    = 12 * time.Hour
	atOnce            = 10 // messages of a request
	maxReceives       = 5
)

// Config is what a block trigger "aws_eventbridge" says. Conn.Endpoint is that of SQS.
type Config struct {
	QueueURL   string        `hcl:"queue_url"`
	Visibility time.Duration `hcl:"visibility,optional"` // how long a message is kept from others while it is taken; default 1m
	// Backend is the name of an aws_secrets_manager backend: events name secrets as it
	// does. Empty: as they are called in Secrets Manager.
	Backend string `hcl:"backend,optional"`
	// EventNames are the calls that are acted on; default: all but those that the broker
	// makes itself.
	EventNames []string `hcl:"event_names,optional"`
	// IgnorePrincipals are patterns of ARNs, such as the broker's own role, whose calls are
	// not acted on: * stands for anything.
	IgnorePrincipals []string       `hcl:"ignore_principals,optional"`
	Conn             awsconn.Config `hcl:",remain"`
}

// Vault is the backend whose names events have, and its type.
func (c *Config) Vault() (backend, ofType string) { return c.Backend, "aws_secrets_manager" }

// Validate returns what is wrong with c, one error a line, each beginning with what it is
// about. It reads no file and asks no server.
func (c *Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	if u, err := url.Parse(c.QueueURL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || len(u.Path) < 2 {
		wrong("queue_url is no URL of a queue: write one like https://sqs.eu-central-1.amazonaws.com/123456789012/keybroker")
	}
	if c.Visibility != 0 && (c.Visibility < leastVisibility || c.Visibility > mostVisibility) {
		wrong("visibility is %s: write one from 10s to 12h", c.Visibility)
	}
	for i, name := range c.EventNames {
		if slices.Contains(own, name) && len(c.IgnorePrincipals) == 0 {
			wrong("event_names.%d %q is what the broker does itself when it rotates, which would go round in a circle: name the ARN that it logs in as in ignore_principals", i, name)
		}
	}
	for i, pattern := range c.IgnorePrincipals {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			wrong("ignore_principals.%d %q is no pattern of an ARN", i, pattern)
		}
	}
	return errors.Join(append(errs, c.Conn.Validate())...)
}

// Queue is a queue of SQS. Close it when its last Poll is over.
type Queue struct {
	cfg    Config
	conn   aws.Config
	client *sqs.Client
	names  func(Secret) []string
	log    hclog.Logger
}

// Open makes a queue, which asks nobody yet. names gives what the broker calls a secret of
// Secrets Manager: nothing for one that it does not keep there.
func Open(ctx context.Context, cfg Config, names func(Secret) []string, logger hclog.Logger) (*Queue, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	conn, err := awsconn.Load(ctx, cfg.Conn, logger)
	if err != nil {
		return nil, err
	}
	if cfg.Visibility == 0 {
		cfg.Visibility = defaultVisibility
	}
	return &Queue{cfg: cfg, conn: conn, client: sqs.NewFromConfig(conn), names: names, log: logger}, nil
}

// Close closes idle connections.
func (q *Queue) Close() { awsconn.CloseIdle(q.conn) }

// Poll asks once for messages, waiting up to 20 s for some, and gives the event of each to
// take. A message is deleted once take has it; where take fails it comes again, unless it
// fails with ErrInvalid more often than MaxReceives. The error is SQS's: then wait a while.
func (q *Queue) Poll(ctx context.Context, take func(context.Context, inbound.Event) error) error {
	out, err := q.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &q.cfg.QueueURL, MaxNumberOfMessages: atOnce, WaitTimeSeconds: int32(longestWait / time.Second),
		VisibilityTimeout:           int32(q.cfg.Visibility / time.Second),
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameApproximateReceiveCount},
	})
	if err != nil {
		return fmt.Errorf("asking for messages: %w", awsconn.Fault(err))
	}
	var errs []error
	for _, m := range out.Messages {
		if ctx.Err() != nil {
			break // the rest becomes visible again
		}
		errs = append(errs, q.handle(ctx, m, take))
	}
	return errors.Join(errs...)
}

// handle takes one message, and deletes it when that is done.
func (q *Queue) handle(ctx context.Context, m types.Message, take func(context.Context, inbound.Event) error) error {
	id := aws.ToString(m.MessageId)
	e, err := q.parse(aws.ToString(m.Body))
	if err == nil {
		err = take(ctx, e)
	}
	switch came := receives(m); {
	case err == nil:
	case !errors.Is(err, backends.ErrInvalid):
		q.log.Warn("an event was not taken; its message comes again", "message", id, "received", came, "error", err)
		return nil
	case came < maxReceives:
		q.log.Warn("a message cannot be read; it comes again", "message", id, "received", came, "error", err)
		return nil
	default:
		poisoned := inbound.Event{ID: "sqs " + id, Source: "SQS", Reason: fmt.Sprintf("message %s cannot be read and was deleted after it came %d times: %s", id, came, err)}
		if err := take(ctx, poisoned.Clean()); err != nil {
			return fmt.Errorf("recording a message that cannot be read: %w", err)
		}
	}
	if _, err := q.client.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &q.cfg.QueueURL, ReceiptHandle: m.ReceiptHandle}); err != nil {
		return fmt.Errorf("deleting a message: %w", awsconn.Fault(err)) // it comes again, and is known
	}
	return nil
}

// receives tells how often a message has come, this time included.
func receives(m types.Message) int {
	n, err := strconv.Atoi(m.Attributes[string(types.MessageSystemAttributeNameApproximateReceiveCount)])
	if err != nil {
		return 1
	}
	return n
}
