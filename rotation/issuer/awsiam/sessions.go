package awsiam

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/smithy-go/middleware"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/rotation/issuer"
)

const (
	// policyName is of the user's inline policy that ends sessions.
	policyName = "keybroker-ended-sessions"
	policySid  = "KeybrokerEndedSessions"
)

// ended is the policy document: whatever a session asks for that began before an
// instant is denied (IAM user guide, "Revoking IAM role temporary security
// credentials"; the condition is never met by a request that an access key signed by
// itself, which has no such time).
type ended struct {
	Version   string
	Statement []statement
}

type statement struct {
	Sid       string
	Effect    string
	Action    string
	Resource  string
	Condition condition
}

type condition struct {
	DateLessThan map[string]string
}

const issuedAt = "aws:TokenIssueTime" // of a session, in whole seconds

func endedBefore(at time.Time) ended {
	return ended{Version: "2012-10-17", Statement: []statement{{
		Sid: policySid, Effect: "Deny", Action: "*", Resource: "*",
		Condition: condition{DateLessThan: map[string]string{issuedAt: at.UTC().Format(time.RFC3339)}},
	}}}
}

// EndSessions implements issuer.SessionEnder. Every session of the user ends that began
// before now, by AWS's clock: which of the user's keys it began with cannot be told
// from it, so those of the key's successor end, too, and are begun again by it. While
// the revocation still spreads, the key can begin others. A user that has gone has no
// sessions.
func (i *Issuer) EndSessions(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	user := h[handleUser]
	if user == "" {
		user, _ = userIn(sub.Settings)
	}
	switch {
	case !i.endSessions:
		return fmt.Errorf("%w: sessions are ended only with end_sessions = true", backends.ErrUnsupported)
	case !userName.MatchString(user):
		return nil
	}
	i.policies.Lock()
	defer i.policies.Unlock()
	if err := i.endThem(ctx, user); err != nil {
		return fmt.Errorf("ending the sessions of user %s: %w", user, err)
	}
	return nil
}

// Another node may write the policy at the same time, and IAM has no compare-and-swap:
// what was written is read again, and written once more where an earlier time has
// replaced it.
const policyTries = 5

func (i *Issuer) endThem(ctx context.Context, user string) error {
	var until time.Time
	for range policyTries {
		have, now, err := i.sessionsEnded(ctx, user)
		if err != nil {
			return err
		}
		if until.IsZero() {
			until = now.Truncate(time.Second).Add(time.Second) // those of this second, too
		}
		if !have.Before(until) {
			return nil
		}
		text, err := json.Marshal(endedBefore(until))
		if err != nil {
			return err
		}
		_, err = i.iam.PutUserPolicy(ctx, &iam.PutUserPolicyInput{UserName: &user, PolicyName: aws.String(policyName), PolicyDocument: aws.String(string(text))})
		if code(err) == codeNone {
			return nil
		}
		if err != nil {
			return awsconn.Fault(err)
		}
	}
	return fmt.Errorf("%w: policy %s keeps an earlier time than was written to it", backends.ErrUnavailable, policyName)
}

// sessionsEnded reads the policy: before which time sessions have ended, zero where
// there is no policy, and what time it is at AWS.
func (i *Issuer) sessionsEnded(ctx context.Context, user string) (until, now time.Time, err error) {
	got, err := i.iam.GetUserPolicy(ctx, &iam.GetUserPolicyInput{UserName: &user, PolicyName: aws.String(policyName)})
	none := code(err) == codeNone
	if err != nil && !none {
		return until, now, awsconn.Fault(err)
	}
	if none {
		now = clockOf(middleware.Metadata{}, err)
	} else {
		now = clockOf(got.ResultMetadata, nil)
		until, err = readEnded(aws.ToString(got.PolicyDocument))
		if err != nil {
			return until, now, err
		}
	}
	if now.IsZero() {
		now = i.now()
	}
	return until, now, nil
}

// readEnded refuses a policy that is not as it is written here: somebody else's is
// not overwritten.
func readEnded(document string) (time.Time, error) {
	foreign := fmt.Errorf("%w: the policy %s is not as keybroker writes it: delete it, or give it another name", backends.ErrConflict, policyName)
	text, err := url.PathUnescape(document) // RFC 3986: IAM API reference, GetUserPolicy
	if err != nil {
		return time.Time{}, foreign
	}
	var p ended
	if json.Unmarshal([]byte(text), &p) != nil || len(p.Statement) != 1 || p.Statement[0].Sid != policySid {
		return time.Time{}, foreign
	}
	at, err := time.Parse(time.RFC3339, p.Statement[0].Condition.DateLessThan[issuedAt])
	if err != nil {
		return time.Time{}, foreign
	}
	return at, nil
}
