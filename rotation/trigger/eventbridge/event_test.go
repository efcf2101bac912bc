package eventbridge_test

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/eventbridge"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const canary = "c4n4ry-s3cr3t-v4lue"

func file(t testing.TB, name string) string {
	t.Helper()
	body, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// kept are the secrets below kb/ in one region.
func kept(s eventbridge.Secret) []string {
	if name, ok := strings.CutPrefix(s.Name, "kb/"); ok && s.Region == "us-west-2" && s.Account == "012345678901" {
		return []string{name}
	}
	return nil
}

func parse(t *testing.T, cfg eventbridge.Config, body string) inbound.Event {
	t.Helper()
	e, err := eventbridge.Parse(cfg, kept, body)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEvents(t *testing.T) {
	const called = "Secrets Manager: PutResourcePolicy by arn:aws:sts::012345678901:assumed-role/Developer/mallory from 198.51.100.7"
	handle := func(id string) map[string]string { return map[string]string{"access_key_id": id} }
	for name, want := range map[string]inbound.Event{
		"health_exposed.json": {
			ID: "121345678-1234-1234-1234-123456789012", At: time.Date(2016, 6, 5, 6, 27, 57, 0, time.UTC), Source: "aws.health, account 123456789012, us-east-1",
			Reason: "AWS Health: AWS_RISK_CREDENTIALS_EXPOSED: A description of the event will be provided here", Handles: []map[string]string{handle("AKIAIOSFODNN7EXAMPLE")},
		},
		"health_exposed_today.json": {
			ID: "5b53b920-3e7c-6003-589a-62ad1ac5e9c7", At: time.Date(2025, 2, 12, 0, 38, 36, 0, time.UTC), Source: "aws.health, account 123456789012, us-east-1",
			Reason: "AWS Health: AWS_RISK_CREDENTIALS_EXPOSED", URL: "https://github.com/octocat/Hello-World",
			Handles: []map[string]string{handle("AKIAIOSFODNN7EXAMPLE"), handle("AKIAI44QH8DHBEXAMPLE")},
		},
		"put_resource_policy.json": {
			ID: "4f7c2e0b-0d27-8a55-6d5e-1a2b3c4d5e6f", At: time.Date(2024, 2, 6, 16, 49, 41, 0, time.UTC), Source: "aws.secretsmanager, account 012345678901, us-west-2",
			Reason: called, Secrets: []string{"mail/sendgrid"},
		},
		"rotation_failed.json": {
			ID: "d5e6f7a8-0d27-8a55-6d5e-1a2b3c4d5e6f", At: time.Date(2024, 2, 6, 17, 0, 0, 0, time.UTC), Source: "aws.secretsmanager, account 012345678901, us-west-2",
			Reason: "Secrets Manager: RotationFailed from secretsmanager.amazonaws.com", Secrets: []string{"pay/stripe"},
		},
		"secret_label_updated.json": { // nobody can tell who has done it, and the broker does so each time it rotates
			ID: "6a7e8feb-b491-4cf7-a9f1-bf3703467718", At: time.Date(2024, 2, 6, 16, 43, 48, 0, time.UTC), Source: "aws.secretsmanager, account 012345678901, us-west-2",
			Reason: "aws.secretsmanager: Secret Label Updated",
		},
	} {
		body := file(t, name)
		if got := parse(t, eventbridge.Config{}, body); !reflect.DeepEqual(got, want.Clean()) {
			t.Errorf("%s: %+v", name, got)
		}
		notification, err := json.Marshal(map[string]string{"Type": "Notification", "MessageId": "m-1", "TopicArn": "arn:aws:sns:us-west-2:012345678901:t", "Message": body})
		if err != nil {
			t.Fatal(err)
		}
		if got := parse(t, eventbridge.Config{}, string(notification)); !reflect.DeepEqual(got, want.Clean()) {
			t.Errorf("%s by SNS: %+v", name, got)
		}
	}
}

// TestOwnCallsAreNotActedOn: the broker writes a secret whenever it rotates, which is an
// event.
func TestOwnCallsAreNotActedOn(t *testing.T) {
	policy := file(t, "put_resource_policy.json")
	put := strings.ReplaceAll(policy, `"PutResourcePolicy"`, `"PutSecretValue"`)
	role := "arn:aws:sts::012345678901:assumed-role/keybroker/keybroker"
	byBroker := strings.ReplaceAll(put, "arn:aws:sts::012345678901:assumed-role/Developer/mallory", role)
	ignoring := eventbridge.Config{EventNames: []string{"PutSecretValue"}, IgnorePrincipals: []string{"arn:aws:sts::*:assumed-role/keybroker/*"}}
	for name, c := range map[string]struct {
		config eventbridge.Config
		body   string
		acts   bool
		says   string
	}{
		"somebody's policy":        {eventbridge.Config{}, policy, true, ""},
		"a value is put":           {eventbridge.Config{}, put, false, "does not act on"},
		"a value is read":          {eventbridge.Config{}, strings.ReplaceAll(policy, `"PutResourcePolicy"`, `"GetSecretValue"`), false, "does not act on"},
		"chosen, by somebody":      {ignoring, put, true, ""},
		"chosen, by the broker":    {ignoring, byBroker, false, "who is ignored"},
		"another than chosen":      {ignoring, policy, false, "does not act on"},
		"refused by AWS":           {eventbridge.Config{}, strings.Replace(policy, `"eventName"`, `"errorCode": "AccessDenied", "eventName"`, 1), false, "AWS refused"},
		"of another region":        {eventbridge.Config{}, strings.ReplaceAll(policy, "us-west-2", "us-east-1"), false, ""},
		"a secret beside ours":     {eventbridge.Config{}, strings.ReplaceAll(policy, "kb/mail/", "other/mail/"), false, ""},
		"a name alone":             {eventbridge.Config{}, strings.Replace(policy, `"responseElements": {`, `"responseElements": null, "x": {`, 1), true, ""},
		"an ARN without its end":   {eventbridge.Config{}, strings.Replace(policy, `mail/sendgrid-a1b2c3"`, `mail/sendgrid"`, 1), true, ""},
		"a value of another shape": {eventbridge.Config{}, strings.Replace(policy, `secret:kb/mail/sendgrid-a1b2c3`, `secret:kb/mail/send grid`, 1), true, ""},
	} {
		e := parse(t, c.config, c.body)
		if acts := slices.Equal(e.Secrets, []string{"mail/sendgrid"}); acts != c.acts || !acts && len(e.Secrets) > 0 || !strings.Contains(e.Reason, c.says) {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestOtherEventsAreRecorded(t *testing.T) {
	health := file(t, "health_exposed_today.json")
	for name, body := range map[string]string{
		"other codes":   strings.ReplaceAll(health, "AWS_RISK_CREDENTIALS_EXPOSED", "AWS_RISK_OTHER"),
		"no key's id":   strings.ReplaceAll(strings.ReplaceAll(health, "AKIAIOSFODNN7EXAMPLE", "nobody"), "AKIAI44QH8DHBEXAMPLE", "AKIA"),
		"other sources": strings.Replace(health, `"source": "aws.health"`, `"source": "aws.ec2"`, 1),
	} {
		if e := parse(t, eventbridge.Config{}, body); e.ID == "" || e.Reason == "" || len(e.Handles)+len(e.Secrets) > 0 {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestRefusesWhatIsNoEvent(t *testing.T) {
	good := file(t, "put_resource_policy.json")
	for name, body := range map[string]string{
		"nothing":           "",
		"no JSON":           canary,
		"truncated":         good[:len(good)/2],
		"a list":            "[]",
		"no id":             strings.Replace(good, `"id"`, `"nr"`, 1),
		"no detail":         strings.Replace(good, `"detail":`, `"details":`, 1),
		"detail in a text":  `{"id":"1","source":"aws.health","detail-type":"x","detail":"` + canary + `"}`,
		"deep":              `{"id":"1","source":"aws.health","detail-type":"x","detail":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}",
		"SNS in SNS":        `{"Type":"Notification","Message":"{\"Type\":\"Notification\",\"Message\":\"{}\"}"}`,
		"a text by SNS":     `{"Type":"Notification","Message":"` + canary + `"}`,
		"a test of S3":      `{"Service":"Amazon S3","Event":"s3:TestEvent"}`,
		"a time of a text":  strings.Replace(good, "2024-02-06T16:50:02Z", canary, 1),
		"an id of a number": strings.Replace(good, `"4f7c2e0b-0d27-8a55-6d5e-1a2b3c4d5e6f"`, "17", 1),
	} {
		_, err := eventbridge.Parse(eventbridge.Config{}, kept, body)
		if !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParse: whatever stands in a queue, only names of the secrets kept there come out, and
// handles that are keys' ids.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"health_exposed.json", "health_exposed_today.json", "put_resource_policy.json", "rotation_failed.json", "secret_label_updated.json"} {
		f.Add(file(f, name))
	}
	f.Add(`{"Type":"Notification","Message":"{}"}`)
	f.Fuzz(func(t *testing.T, body string) {
		e, err := eventbridge.Parse(eventbridge.Config{IgnorePrincipals: []string{"arn:*[a-z]*"}}, kept, body)
		if err != nil && !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%v", err)
		}
		if err == nil && (len(e.Reason) > 1024 || len(e.Values) > 0 || len(e.Secrets) > 1) {
			t.Errorf("%+v", e)
		}
		for _, h := range e.Handles {
			if id := h["access_key_id"]; len(h) != 1 || len(id) < 16 || strings.ToUpper(id) != id || !strings.Contains("AKIA ASIA", id[:4]) {
				t.Errorf("handle %v", h)
			}
		}
	})
}
