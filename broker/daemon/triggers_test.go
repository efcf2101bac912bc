package daemon_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

// Mistakes of a trigger stand in its block, at the attribute that they are about.
func TestMistakesOfTriggers(t *testing.T) {
	t.Parallel()
	const text = `backend "local" "here" {}
trigger "webhook" "nobody" {
  action = "rotate"
}
trigger "webhook" "two" {
  action       = "rotate"
  bearer_token = env("LONG")
  hub_secret   = env("LONG")
}
trigger "webhook" "short" {
  action       = "rotate"
  bearer_token = env("SHORT")
}
trigger "webhook" "kind" {
  action         = "rotate"
  signing_secret = env("LONG")
}
trigger "webhook" "paths" {
  action       = "rotate"
  bearer_token = env("LONG")
  paths        = { secret = "$.a", values = "b" }
}
trigger "webhook" "literal" {
  action       = "rotate"
  bearer_token = "a-literal-c4n4ry"
}
trigger "github_secret_scanning" "hook" {
  action         = "emergency"
  webhook_secret = env("LONG")
}
trigger "github_secret_scanning" "elsewhere" {
  action  = "emergency"
  partner = true
  api_url = "http://github.example.com"
}
trigger "alertmanager" "open" {
  action = "rotate"
}
trigger "alertmanager" "label" {
  action       = "rotate"
  bearer_token = env("LONG")
  secret_label = "no label"
}
trigger "aws_eventbridge" "queue" {
  action    = "rotate"
  queue_url = "keybroker"
  region    = "eu-central-1"
  backend   = "here"
}
trigger "aws_eventbridge" "circle" {
  action      = "rotate"
  queue_url   = "https://sqs.eu-central-1.amazonaws.com/123456789012/keybroker"
  region      = "eu-central-1"
  event_names = ["DeleteSecret", "PutSecretValue"]
}
`
	env := map[string]string{"LONG": "a-token-c4n4ry-long-enough", "SHORT": "c4n4ry"}
	opts := config.Options{Dir: t.TempDir(), LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok }}
	_, diags := config.Parse(map[string][]byte{"triggers.hcl": []byte(text)}, daemon.Registry(), opts)
	want := map[int]string{
		2:  "Anybody could send",
		5:  "A sender proves itself in one way",
		12: "bearer_token is too short",
		16: "signing_secret is none of Standard Webhooks",
		21: "nothing called \"secret\"",
		25: "A literal where a secret belongs",
		27: "token is missing",
		34: "api_url must begin with https://",
		36: `The attribute "bearer_token" is missing`,
		42: "secret_label",
		46: "queue_url is no URL of a queue",
		48: `is of the type "local", and these events are about one of the type "aws_secrets_manager"`,
		54: "event_names.1",
	}
	for _, d := range diags.All() {
		said := d.Summary + ". " + d.Detail
		if d.Severity != hcl.DiagError {
			continue
		}
		if expected, ok := want[d.Subject.Start.Line]; ok && strings.Contains(said, expected) {
			delete(want, d.Subject.Start.Line)
		} else if d.Subject.Start.Line != 21 && d.Subject.Start.Line != 5 {
			t.Errorf("line %d: %s", d.Subject.Start.Line, said)
		}
	}
	for line, text := range want {
		t.Errorf("nothing says in line %d: %s", line, text)
	}
	var shown bytes.Buffer
	if err := diags.WriteText(&shown, false); err != nil || strings.Contains(shown.String(), "c4n4ry") {
		t.Errorf("a secret is shown (%v):\n%s", err, shown.String())
	}
}

// outsideTriggers are of GitHub, whose API is at GITHUB, and of Alertmanager.
const outsideTriggers = `
trigger "github_secret_scanning" "leaks" {
  action                = "emergency"
  webhook_secret        = env("HUB_SECRET")
  token                 = env("API_TOKEN")
  api_url               = "GITHUB"
  allow_private_network = true
}
trigger "github_secret_scanning" "feed" {
  action                = "emergency"
  partner               = true
  api_url               = "GITHUB"
  allow_private_network = true
}
trigger "alertmanager" "alerts" {
  action       = "rotate"
  bearer_token = env("API_TOKEN")
}
`

const (
	hubSecret = "the-webhook's-c4n4ry-secret"
	apiToken  = "the-api's-c4n4ry-token"
)

// post sends a body to a trigger, and returns the answer.
func (n *node) post(t *testing.T, trigger string, header http.Header, body []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.addr+"/api/v1/hooks/"+trigger, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// lastOf is the event that a trigger took last.
func (n *node) lastOf(t *testing.T, trigger string) client.InboundEvent {
	t.Helper()
	list, err := n.InboundEvents(t.Context(), client.InboundEventQuery{Trigger: trigger})
	if err != nil || len(list.Items) == 0 {
		t.Fatal(len(list.Items), err)
	}
	e, err := n.InboundEvent(t.Context(), list.Items[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestEventsOfGitHubAndAlertmanager: messages as they send them begin what the triggers
// say, of the secrets whose values and names they bring; forged ones do not.
func TestEventsOfGitHubAndAlertmanager(t *testing.T) {
	t.Parallel()
	var leaked string // what the API tells of the alert
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	github := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/meta/public_keys/secret_scanning":
			_ = json.NewEncoder(w).Encode(map[string]any{"public_keys": []any{map[string]any{"key_identifier": "k1", "key": public}}})
		case r.URL.Path == "/repos/octo-org/octo-repo/secret-scanning/alerts/42" && r.Header.Get("Authorization") == "Bearer "+apiToken:
			_ = json.NewEncoder(w).Encode(map[string]any{"number": 42, "secret": leaked})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(github.Close)
	s := newSite(t, withConsumer(embedded, nil)+strings.ReplaceAll(outsideTriggers, "GITHUB", github.URL)+`
secret "app/other" {
  backend = "embedded"
  probe   = "internal"
  issuer "internal" {}
}
secret "app/third" {
  backend = "embedded"
  probe   = "internal"
  issuer "internal" {}
}
`)
	s.env["HUB_SECRET"], s.env["API_TOKEN"] = hubSecret, apiToken
	n := s.start()
	n.rotate(t, "app/key")
	n.rotate(t, "app/other")
	n.rotate(t, "app/third")
	leaked = n.value(t, "app/key").Fields["key"]

	alert := []byte(`{"action":"created","alert":{"number":42,"secret_type":"ours","html_url":"https://github.com/octo-org/octo-repo/security/secret-scanning/42"},"repository":{"full_name":"octo-org/octo-repo"}}`)
	hub := func(body []byte) http.Header {
		mac := hmac.New(sha256.New, []byte(hubSecret))
		mac.Write(body)
		return http.Header{"Content-Type": {"application/json"}, "X-Github-Event": {"secret_scanning_alert"}, "X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(mac.Sum(nil))}}
	}
	if status, text := n.post(t, "leaks", hub(append(slices.Clone(alert), ' ')), alert); status != http.StatusUnauthorized {
		t.Errorf("a forged alert: %d %s", status, text)
	}
	if status, text := n.post(t, "leaks", hub(alert), alert); status != http.StatusAccepted {
		t.Fatalf("an alert: %d %s", status, text)
	}
	e := n.lastOf(t, "leaks")
	if e.Outcome != client.OutcomeActed || e.Values != 1 || len(e.Matches) != 1 || e.Matches[0].Secret != "app/key" || e.Matches[0].By != "value" || !slices.Equal(e.Matches[0].Versions, []int{1}) || e.IncidentID == "" {
		t.Errorf("of an alert came %+v", e)
	}

	matches, err := json.Marshal([]map[string]string{{"token": n.value(t, "app/other").Fields["key"], "type": "ours"}, {"token": "somebody else's token", "type": "ours"}})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(matches)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	feed := http.Header{"Github-Public-Key-Identifier": {"k1"}, "Github-Public-Key-Signature": {base64.StdEncoding.EncodeToString(signature)}}
	status, text := n.post(t, "feed", feed, matches)
	if status != http.StatusOK || strings.Count(text, `"true_positive"`) != 1 || strings.Count(text, `"false_positive"`) != 1 || strings.Index(text, "true_positive") > strings.Index(text, "false_positive") {
		t.Errorf("the feed: %d %s", status, text)
	}
	if status, text := n.post(t, "feed", feed, append(matches, '\n')); status != http.StatusUnauthorized {
		t.Errorf("a forged match: %d %s", status, text)
	}

	alerts := []byte(`{"version":"4","alerts":[{"status":"firing","labels":{"alertname":"Leak","secret":"app/third"},"startsAt":"2026-03-01T12:00:00Z","fingerprint":"1a30ba71cca2921f"}]}`)
	bearer := http.Header{"Authorization": {"Bearer " + apiToken}}
	if status, text := n.post(t, "alerts", bearer, alerts); status != http.StatusAccepted {
		t.Fatalf("Alertmanager: %d %s", status, text)
	}
	if e := n.lastOf(t, "alerts"); e.Outcome != client.OutcomeActed || !slices.Equal(e.Names, []string{"app/third"}) || len(e.Matches) != 1 || e.Matches[0].RotationID == "" {
		t.Errorf("of Alertmanager's came %+v", e)
	}
	if status, text := n.post(t, "alerts", bearer, alerts); status != http.StatusAccepted || n.lastOf(t, "alerts").Repeats != 1 {
		t.Errorf("what fires on: %d %s", status, text)
	}
	if status, text := n.post(t, "alerts", http.Header{"Authorization": {"Bearer " + hubSecret}}, alerts); status != http.StatusUnauthorized {
		t.Errorf("another token: %d %s", status, text)
	}
	for _, canary := range []string{leaked, "c4n4ry", "somebody else's token"} {
		if strings.Contains(s.log.String(), canary) {
			t.Errorf("the log shows %q", canary)
		}
	}
}

// TestEventsOfAQueue: a queue is asked from the start, another one from the reload on that
// names it, and what it says of AWS's secrets and keys is about the broker's.
func TestEventsOfAQueue(t *testing.T) {
	t.Parallel()
	cloud := motoserver.Start(t)
	const region = "eu-central-1"
	queues := sqs.NewFromConfig(cloud.AWS(region))
	queueCalled := func(name string) string {
		out, err := queues.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name})
		if err != nil {
			t.Fatal(err)
		}
		return aws.ToString(out.QueueUrl)
	}
	first, second := queueCalled("first"), queueCalled("second")
	send := func(queue, id, name string) {
		t.Helper()
		body := fmt.Sprintf(`{"version":"0","id":%q,"source":"aws.secretsmanager","detail-type":"AWS API Call via CloudTrail","account":"123456789012","region":%q,"time":"2026-03-01T12:00:00Z",
			"resources":[],"detail":{"eventName":"PutResourcePolicy","responseElements":{"arn":"arn:aws:secretsmanager:%s:123456789012:secret:%s-a1b2c3"}}}`, id, region, region, name)
		if _, err := queues.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &queue, MessageBody: &body}); err != nil {
			t.Fatal(err)
		}
	}
	s := newSite(t, withConsumer(embedded, nil)+fmt.Sprintf(`
backend "aws_secrets_manager" "vault" {
  region            = %[1]q
  endpoint          = %[2]q
  path_prefix       = "kb/"
  access_key_id     = env("AWS_ID")
  secret_access_key = env("AWS_SECRET")
}
secret "cloud/key" {
  backend = "vault"
  probe   = "internal"
  issuer "internal" {}
}
trigger "aws_eventbridge" "aws" {
  action            = "rotate"
  queue_url         = %[3]q
  backend           = "vault"
  region            = %[1]q
  endpoint          = %[2]q
  access_key_id     = env("AWS_ID")
  secret_access_key = env("AWS_SECRET")
}
`, region, cloud.URL, first))
	s.env["AWS_ID"], s.env["AWS_SECRET"] = "AKIAKEYBROKERTESTING", "the-c4n4ry-of-aws"
	n := s.start()
	n.rotate(t, "cloud/key")

	taken := func(eventID string) client.InboundEvent {
		t.Helper()
		var found client.InboundEvent
		eventually(t, "the event "+eventID, func() bool {
			list, err := n.InboundEvents(t.Context(), client.InboundEventQuery{Trigger: "aws"})
			if err != nil {
				return false
			}
			for _, e := range list.Items {
				if e.EventID == eventID && e.Outcome != client.OutcomeReceiving {
					found = e
					return true
				}
			}
			return false
		})
		return found
	}
	send(first, "evt-beside", "other/cloud/key")
	if e := taken("evt-beside"); e.Outcome != client.OutcomeNothingMatched || len(e.Names) != 0 {
		t.Errorf("beside the backend's folder: %+v", e)
	}
	send(first, "evt-first", "kb/cloud/key")
	if e := taken("evt-first"); e.Outcome != client.OutcomeActed || len(e.Matches) != 1 || e.Matches[0].Secret != "cloud/key" || e.Matches[0].RotationID == "" {
		t.Errorf("of the queue's event came %+v", e)
	}

	s.hcl = strings.Replace(s.hcl, first, second, 1)
	send(second, "evt-second", "kb/cloud/key")
	if _, err := n.Reload(t.Context(), client.ReloadRequest{}); err != nil {
		t.Fatal(err)
	}
	taken("evt-second")
	eventually(t, "the message to be deleted", func() bool {
		out, err := queues.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &second, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
		return err == nil && out.Attributes["ApproximateNumberOfMessages"] == "0" && out.Attributes["ApproximateNumberOfMessagesNotVisible"] == "0"
	})
	if strings.Contains(s.log.String(), "c4n4ry") {
		t.Error("the log shows a credential")
	}
	n.stop() // which waits for no long poll
}
