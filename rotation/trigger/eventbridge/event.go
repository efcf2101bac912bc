package eventbridge

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

// The sources and the types of their events that are read
// (https://docs.aws.amazon.com/eventbridge/latest/ref/events-ref-secretsmanager.html,
// https://docs.aws.amazon.com/health/latest/ug/aws-health-events-eventbridge-schema.html).
const (
	sourceSecrets = "aws.secretsmanager"
	sourceHealth  = "aws.health"

	typeCall    = "AWS API Call via CloudTrail"
	typeService = "AWS Service Event via CloudTrail"

	codeExposed = "AWS_RISK_CREDENTIALS_EXPOSED"
)

// handleKey is what issuers of AWS access keys call a key's id.
const handleKey = "access_key_id"

// own are the calls that the broker itself makes while it keeps and reads secrets. Acting
// on them would go round in a circle: what rotates is written, which is an event.
var own = []string{
	"BatchGetSecretValue", "CreateSecret", "DescribeSecret", "GetSecretValue", "ListSecretVersionIds", "ListSecrets", "PutSecretValue",
	"ReplicateSecretToRegions", "TagResource", "UntagResource", "UpdateSecretVersionStage",
}

// envelope is an event of EventBridge.
type envelope struct {
	ID         string          `json:"id"`
	Source     string          `json:"source"`
	DetailType string          `json:"detail-type"`
	Account    string          `json:"account"`
	Region     string          `json:"region"`
	Time       time.Time       `json:"time"`
	Resources  []string        `json:"resources"`
	Detail     json.RawMessage `json:"detail"`

	// Of a notification of SNS, whose message is the event (unless the subscription has raw
	// message delivery).
	Type    string `json:"Type"`
	Message string `json:"Message"`
}

// trail is what is read of an entry of CloudTrail.
type trail struct {
	EventName    string    `json:"eventName"`
	EventTime    time.Time `json:"eventTime"`
	ErrorCode    string    `json:"errorCode"`
	SourceIP     string    `json:"sourceIPAddress"`
	UserIdentity struct {
		ARN string `json:"arn"`
	} `json:"userIdentity"`
	Request struct {
		SecretID string `json:"secretId"`
	} `json:"requestParameters"`
	Response struct {
		ARN string `json:"arn"` // before February 2024 some said "aRN": names of fields have no case here
	} `json:"responseElements"`
	Additional struct {
		SecretID string `json:"SecretId"`
	} `json:"additionalEventData"`
	Resources []struct {
		ARN string `json:"ARN"`
	} `json:"resources"`
}

// health is what is read of an event of AWS Health.
type health struct {
	Code         string `json:"eventTypeCode"`
	Descriptions []struct {
		Text string `json:"latestDescription"`
	} `json:"eventDescription"`
	Metadata struct {
		PublicKey  string `json:"publicKey"`
		ExposedURL string `json:"exposedUrl"`
	} `json:"eventMetadata"`
	Entities []struct {
		Value string `json:"entityValue"`
	} `json:"affectedEntities"`
}

// parse reads the body of a message. ErrInvalid: it is no event of EventBridge.
func (q *Queue) parse(body string) (inbound.Event, error) {
	var v envelope
	if err := inbound.Decode([]byte(body), &v); err != nil {
		return inbound.Event{}, err
	}
	if v.Type == "Notification" && v.Message != "" {
		body, v = v.Message, envelope{}
		if err := inbound.Decode([]byte(body), &v); err != nil {
			return inbound.Event{}, err
		}
	}
	if v.ID == "" || v.Source == "" || v.DetailType == "" || len(v.Detail) == 0 {
		return inbound.Event{}, fmt.Errorf("%w: the message is no event of EventBridge", backends.ErrInvalid)
	}
	e := inbound.Event{ID: v.ID, At: v.Time.UTC(), Source: fmt.Sprintf("%s, account %s, %s", v.Source, v.Account, v.Region), Reason: v.Source + ": " + v.DetailType}
	var err error
	switch {
	case v.Source == sourceSecrets && (v.DetailType == typeCall || v.DetailType == typeService):
		err = q.trailed(&e, v)
	case v.Source == sourceHealth:
		err = exposed(&e, v)
	}
	return e.Clean(), err
}

// trailed says which secret an entry of CloudTrail is about, unless it is none to act on:
// the broker's own call, one that AWS refused, or one that was not asked for.
func (q *Queue) trailed(e *inbound.Event, v envelope) error {
	var t trail
	if err := inbound.Decode(v.Detail, &t); err != nil {
		return err
	}
	if !t.EventTime.IsZero() {
		e.At = t.EventTime.UTC()
	}
	e.Reason = "Secrets Manager: " + t.EventName
	if t.UserIdentity.ARN != "" {
		e.Reason += " by " + t.UserIdentity.ARN
	}
	if t.SourceIP != "" {
		e.Reason += " from " + t.SourceIP
	}
	switch {
	case t.ErrorCode != "":
		e.Reason += ", which AWS refused (" + t.ErrorCode + ")"
		return nil
	case q.ignored(t.UserIdentity.ARN):
		e.Reason += ", who is ignored"
		return nil
	case len(q.cfg.EventNames) > 0 && !slices.Contains(q.cfg.EventNames, t.EventName), len(q.cfg.EventNames) == 0 && slices.Contains(own, t.EventName):
		e.Reason += ", which this trigger does not act on"
		return nil
	}
	for _, id := range t.secrets(v) {
		for _, found := range secretsOf(id, v) {
			if e.Secrets = q.names(found); len(e.Secrets) > 0 {
				return nil
			}
		}
	}
	return nil
}

// secrets are what an entry calls the one secret that it is about, whole ARNs first.
func (t trail) secrets(v envelope) []string {
	ids := []string{t.Response.ARN}
	for _, r := range t.Resources {
		ids = append(ids, r.ARN)
	}
	return append(append(ids, v.Resources...), t.Additional.SecretID, t.Request.SecretID)
}

// ignored tells whether somebody's calls are not acted on.
func (q *Queue) ignored(arn string) bool {
	return arn != "" && slices.ContainsFunc(q.cfg.IgnorePrincipals, func(pattern string) bool {
		ok, err := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(arn, "/", "\x00"))
		return err == nil && ok
	})
}

// Secret is one of Secrets Manager.
type Secret struct{ Account, Region, Name string }

var (
	secretARN  = regexp.MustCompile(`^arn:[\w-]+:secretsmanager:([\w-]+):(\d{12}):secret:(.+)$`)
	secretName = regexp.MustCompile(`^[A-Za-z0-9/_+=.@-]{1,512}$`)
	// AWS adds a hyphen and six characters of chance to a secret's name in its ARN.
	suffix = regexp.MustCompile(`-[A-Za-z0-9]{6}$`)
)

// secretsOf reads a secret's ARN, or its name alone, as calls may have it; the event says
// then where it is. An ARN in a call may lack what AWS adds to the name, so that what
// looks like it may be the name's own end: that comes second.
func secretsOf(id string, v envelope) []Secret {
	s := Secret{Account: v.Account, Region: v.Region, Name: id}
	m := secretARN.FindStringSubmatch(id)
	if m != nil {
		s = Secret{Account: m[2], Region: m[1], Name: m[3]}
	}
	if !secretName.MatchString(s.Name) {
		return nil
	}
	if m == nil || !suffix.MatchString(s.Name) {
		return []Secret{s}
	}
	whole := s
	s.Name = suffix.ReplaceAllString(s.Name, "")
	return []Secret{s, whole}
}

// keyID is an access key's id, wherever it stands (IAM user guide, "IAM identifiers").
var keyID = regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z0-9]{12,124}\b`)

// exposed says which access keys AWS has found in public.
func exposed(e *inbound.Event, v envelope) error {
	var h health
	if err := inbound.Decode(v.Detail, &h); err != nil {
		return err
	}
	e.Reason = "AWS Health: " + h.Code
	if h.Code != codeExposed {
		return nil
	}
	if h.Metadata.ExposedURL != "" {
		e.URL = h.Metadata.ExposedURL
	} else if len(h.Descriptions) > 0 {
		e.Reason += ": " + h.Descriptions[0].Text
	}
	texts := append(slices.Clone(v.Resources), h.Metadata.PublicKey)
	for _, entity := range h.Entities {
		texts = append(texts, entity.Value)
	}
	found := map[string]bool{}
	for _, text := range texts {
		for _, id := range keyID.FindAllString(text, -1) {
			if !found[id] {
				found[id] = true
				e.Handles = append(e.Handles, map[string]string{handleKey: id})
			}
		}
	}
	return nil
}
