package awsiam_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

const policyName = "keybroker-ended-sessions"

// document is the policy that ends a user's sessions, as IAM has it.
func (c *cloud) document(user string) string {
	c.t.Helper()
	got, err := c.client().GetUserPolicy(c.t.Context(), &iam.GetUserPolicyInput{UserName: &user, PolicyName: aws.String(policyName)})
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := url.PathUnescape(*got.PolicyDocument)
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

// until is the time in it.
func (c *cloud) until(user string) time.Time {
	c.t.Helper()
	var p struct {
		Version   string
		Statement []struct {
			Sid, Effect, Action, Resource string
			Condition                     map[string]map[string]time.Time
		}
	}
	if err := json.Unmarshal([]byte(c.document(user)), &p); err != nil || len(p.Statement) != 1 {
		c.t.Fatalf("the policy is %s: %v", c.document(user), err)
	}
	s := p.Statement[0]
	if p.Version != "2012-10-17" || s.Effect != "Deny" || s.Action != "*" || s.Resource != "*" || len(s.Condition) != 1 {
		c.t.Errorf("the policy is %s", c.document(user))
	}
	return s.Condition["DateLessThan"]["aws:TokenIssueTime"]
}

func (c *cloud) put(user, document string) {
	c.t.Helper()
	_, err := c.client().PutUserPolicy(c.t.Context(), &iam.PutUserPolicyInput{UserName: &user, PolicyName: aws.String(policyName), PolicyDocument: &document})
	if err != nil {
		c.t.Fatal(err)
	}
}

// The time is AWS's, whatever this node's clock says, and is never brought back.
func TestEndSessions(t *testing.T) {
	t.Parallel()
	c := newCloud(t, shared(t))
	front := newFront(t, c.URL)
	is := c.open(c.config(front.URL, c.admin))
	user, sub := c.user()
	h := issuer.Handle{"user": user, "access_key_id": "AKIAKEYBROKERTESTING"}
	before := time.Now()
	if err := is.EndSessions(t.Context(), sub, h); err != nil {
		t.Fatal(err)
	}
	first := c.until(user)
	if first.Before(before) || first.After(time.Now().Add(2*time.Second)) {
		t.Errorf("ended are sessions before %s, and it was %s", first, before)
	}

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := is.EndSessions(t.Context(), sub, h); err != nil {
				t.Errorf("several at once: %v", err)
			}
		})
	}
	wg.Wait()
	if c.until(user).Before(first) {
		t.Error("the time was brought back")
	}

	ahead := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	c.put(user, `{"Version":"2012-10-17","Statement":[{"Sid":"KeybrokerEndedSessions","Effect":"Deny","Action":"*","Resource":"*",`+
		`"Condition":{"DateLessThan":{"aws:TokenIssueTime":"`+ahead.Format(time.RFC3339)+`"}}}]}`)
	if err := is.EndSessions(t.Context(), sub, h); err != nil {
		t.Fatal(err)
	}
	if got := c.until(user); !got.Equal(ahead) {
		t.Errorf("another node wrote %s, and it became %s", ahead, got)
	}

	front.delay(time.Hour) // of the clock alone
	if err := is.EndSessions(t.Context(), sub, h); err != nil {
		t.Fatal(err)
	}
	if got := c.until(user); got.Before(ahead) || got.After(ahead.Add(time.Minute)) {
		t.Errorf("AWS's clock is an hour ahead, and the time is %s", got)
	}
}

// A policy of this name that is somebody else's is left alone; so is everything where
// sessions are not to be ended.
func TestEndSessionsIsCareful(t *testing.T) {
	t.Parallel()
	c := newCloud(t, shared(t))
	is := c.open(c.config(c.URL, c.admin))
	user, sub := c.user()
	h := issuer.Handle{"user": user, "access_key_id": "AKIAKEYBROKERTESTING"}
	const foreign = `{"Version":"2012-10-17","Statement":[{"Sid":"Mine","Effect":"Deny","Action":"s3:*","Resource":"*"}]}`
	c.put(user, foreign)
	if err := is.EndSessions(t.Context(), sub, h); !errors.Is(err, backends.ErrConflict) {
		t.Errorf("somebody else's policy: %v", err)
	}
	if got := c.document(user); got != foreign {
		t.Errorf("it became %s", got)
	}
	off := c.config(c.URL, c.admin)
	off.EndSessions = false
	if err := c.open(off).EndSessions(t.Context(), sub, h); !errors.Is(err, backends.ErrUnsupported) {
		t.Errorf("switched off: %v", err)
	}
	if err := is.EndSessions(t.Context(), sub, issuer.Handle{"user": "nobody", "access_key_id": "AKIAKEYBROKERTESTING"}); err != nil {
		t.Errorf("of a user that has gone: %v", err)
	}
}
