package notify

import (
	"context"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
)

// Slack is a notifier that posts to an incoming webhook as Slack defines it, which
// Mattermost, Rocket.Chat and others take as well. Its URL is all that it takes to
// post there, so it is a secret.
type Slack struct {
	WebhookURL          backends.SecretString `hcl:"webhook_url"`
	CAFile              string                `hcl:"ca_file,optional"`
	AllowPrivateNetwork bool                  `hcl:"allow_private_network,optional"`
}

// Check returns every mistake, joined; offline, secrets are not known.
func (c Slack) Check(offline bool) error {
	if offline {
		return nil
	}
	return checkURL("webhook_url", c.WebhookURL.Reveal(), c.AllowPrivateNetwork)
}

type slackNotifier struct {
	*poster
	url backends.SecretString
}

// NewSlack returns the notifier.
func NewSlack(c Slack) (alert.Notifier, error) {
	p, err := newPoster("slack", c.CAFile, c.AllowPrivateNetwork)
	if err != nil {
		return nil, err
	}
	return &slackNotifier{p, c.WebhookURL}, nil
}

var (
	// slackEscape is what Slack asks for in texts: these three characters are its own.
	// The texts of an alert have names in them that others chose, and what they answered:
	// they stand in a block of code, where neither a link nor a mention means anything,
	// to Slack and to those that read Markdown; so nothing in them ends the block.
	slackEscape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "`", "'")
	slackMarks  = map[alert.Severity]string{alert.Critical: ":rotating_light:", alert.Error: ":red_circle:", alert.Warning: ":warning:"}
)

// Notify implements alert.Notifier.
func (s *slackNotifier) Notify(ctx context.Context, n alert.Notification) error {
	mark, about := slackMarks[alert.SeverityOf(n.Alert.Kind)], n.Alert.Kind
	if n.Alert.ID == "" || n.Event == alert.Resolved {
		mark = ":white_check_mark:"
	}
	if n.Event != alert.Raised {
		about = strings.TrimSpace(about + " " + string(n.Event))
	}
	text := short(slackEscape.Replace(n.Title()+"\n"+strings.Join(n.Lines(), "\n")), 2900)
	return s.post(ctx, s.url.Reveal(), map[string]any{"text": mark + " *keybroker: " + about + "*\n```\n" + text + "\n```"})
}
