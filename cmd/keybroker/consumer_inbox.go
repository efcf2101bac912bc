package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) consumerInboxCommand() *cobra.Command {
	var query client.InboxQuery
	var follow, ack bool
	cmd := &cobra.Command{
		Use:   "inbox NAME",
		Short: "Collect the messages that wait for a consumer with an inbox",
		Long: "Collect the messages that wait for a consumer with an inbox, each as one line of JSON:\n" +
			"{\"delivery\", \"headers\", \"body\"}, signed as a webhook is. It takes a token of the\n" +
			"consumer's role. What is not acknowledged within 30 s is handed out again; with --ack\n" +
			"each is acknowledged as received once it is printed. Where the consumer has several\n" +
			"instances, each is handed what it has not acknowledged itself, if it gives its name\n" +
			"(--instance) here and when it acknowledges. That the consumer uses a new\n" +
			"version it says itself: POST /api/v1/deliveries/{id}/ack with the status \"applied\".\n" +
			"With the payload \"plain\" the lines hold secrets.",
		Example: "  keybroker consumer inbox shop --wait 30s | jq -r .body\n" +
			"  keybroker consumer inbox shop --follow --ack",
		Args: takes("NAME"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			print := func(item client.InboxItem) error {
				e := json.NewEncoder(a.out)
				e.SetEscapeHTML(false)
				if err := e.Encode(item); err != nil || !ack {
					return err
				}
				return acknowledgeReceived(ctx, c, item, query.Instance)
			}
			if follow {
				return a.followInbox(ctx, c, args[0], query.Instance, print)
			}
			items, err := c.Inbox(ctx, args[0], query)
			for _, item := range items {
				if err == nil {
					err = print(item)
				}
			}
			return err
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&follow, "follow", false, "stay, and print each message when it comes")
	f.BoolVar(&ack, "ack", false, "acknowledge as received what was printed")
	f.StringVar(&query.Instance, "instance", "", "collect as this one of the consumer's instances: what it has acknowledged is not handed out to it again")
	f.DurationVar(&query.Wait, "wait", 0, "how long to wait where there is nothing, at most 1m")
	f.IntVar(&query.Limit, "limit", 10, "at most so many, up to 100")
	cmd.MarkFlagsMutuallyExclusive("follow", "wait")
	cmd.MarkFlagsMutuallyExclusive("follow", "limit")
	return cmd
}

// followInbox prints messages until the person has seen enough.
func (a *app) followInbox(ctx context.Context, c *client.Client, consumer, instance string, print func(client.InboxItem) error) error {
	interrupted := func(err error) {
		a.note("%s: the stream broke, and is opened again: %v", a.now().Format(time.TimeOnly), err)
	}
	for item, err := range c.FollowInbox(ctx, consumer, instance, interrupted) {
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = print(item)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ackWithin is how long an acknowledgement may take of what was printed before somebody
// had seen enough.
const ackWithin = 5 * time.Second

// acknowledgeReceived says that a message has arrived, which was printed: also if whoever
// reads ends the command meanwhile.
func acknowledgeReceived(ctx context.Context, c *client.Client, item client.InboxItem, instance string) error {
	var event struct {
		Data struct {
			Generation int64 `json:"generation"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(item.Body.Reveal()), &event); err != nil { // the error may quote a value
		return fmt.Errorf("acknowledging delivery %s: its body is no event", item.Delivery)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackWithin)
	defer cancel()
	_, err := c.Acknowledge(ctx, item.Delivery, client.AcknowledgeRequest{Status: client.AckReceived, Generation: event.Data.Generation, Instance: instance})
	if err != nil {
		return fmt.Errorf("acknowledging delivery %s: %w", item.Delivery, err)
	}
	return nil
}
