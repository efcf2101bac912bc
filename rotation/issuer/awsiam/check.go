package awsiam

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// noKey is the id of no access key: ids are written in base32, which has no 0.
const noKey = "AKIA0000000000000000"

// check is one Check.
type check struct {
	*Issuer
	ctx      context.Context
	user     string
	arn      string // of the user, as far as is known
	findings []issuer.Finding
}

// Check implements issuer.Checker. IAM's policy simulator tells what is allowed; where
// it may not be asked, each action is tried as far as that has no effect.
func (i *Issuer) Check(ctx context.Context, sub issuer.Subject) []issuer.Finding {
	c := &check{Issuer: i, ctx: ctx}
	if sub.Ref == (backends.Ref{}) && len(sub.Settings) == 0 { // no secret uses the issuer yet
		if _, ok := c.identity(); ok {
			c.found(issuer.Finding{What: "may do for a user what a rotation needs", Unknown: true,
				Problem: "which user it is about is said by a secret, and none was asked about", Mend: "check the issuer for a secret that names its user"})
		}
		return c.findings
	}
	var err error
	if c.user, err = userIn(sub.Settings); err != nil {
		return []issuer.Finding{{What: "the secret names a user", Problem: err.Error(), Mend: `write user = "NAME" in the secret's issuer block`}}
	}
	me, ok := c.identity()
	if !ok {
		return c.findings
	}
	c.account(me)
	if why := c.simulate(me); why != "" {
		c.try(why)
	}
	return c.findings
}

func (c *check) good(what string) { c.findings = append(c.findings, issuer.Finding{What: what}) }

func (c *check) found(f issuer.Finding) { c.findings = append(c.findings, f) }

// identity asks who the issuer is. Nothing else can be asked where that fails.
func (c *check) identity() (arn.ARN, bool) {
	who, err := c.sts.GetCallerIdentity(c.ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		c.found(issuer.Finding{What: "AWS takes the issuer's credentials", Problem: awsconn.Fault(err).Error(),
			Mend: "look at region, endpoint, sts_endpoint and the credentials of the issuer's block"})
		return arn.ARN{}, false
	}
	me, err := arn.Parse(aws.ToString(who.Arn))
	if err != nil {
		c.found(issuer.Finding{What: "AWS takes the issuer's credentials", Problem: "AWS does not say whose they are", Mend: "look at sts_endpoint"})
		return me, false
	}
	c.good("AWS takes the issuer's credentials: they are those of " + me.String())
	return me, true
}

// account looks at the user, and whether it is the issuer itself.
func (c *check) account(me arn.ARN) {
	c.arn = arn.ARN{Partition: me.Partition, Service: "iam", AccountID: me.AccountID, Resource: "user/" + c.user}.String()
	got, err := c.iam.GetUser(c.ctx, &iam.GetUserInput{UserName: &c.user})
	switch {
	case err == nil && got.User != nil:
		c.arn = aws.ToString(got.User.Arn) // which has the user's path
		c.good("user " + c.user + " is there")
	case code(err) == codeNone:
		c.found(issuer.Finding{What: "user " + c.user + " is there", Problem: "IAM has no user of this name", Mend: "create it, or mend the secret's setting user"})
	default:
		c.found(issuer.Finding{What: "user " + c.user + " is there", Problem: "it cannot be looked at: " + awsconn.Fault(err).Error(), Mend: c.allow("iam:GetUser"), Unknown: true})
	}
	if me.Service == "iam" && strings.HasPrefix(me.Resource, "user/") && me.Resource[strings.LastIndex(me.Resource, "/")+1:] == c.user {
		c.found(issuer.Finding{What: "the issuer logs in as somebody else than user " + c.user,
			Problem: "it logs in as this user: a rotation turns off the key that the issuer itself uses, which it then cannot delete",
			Mend:    "give the issuer a user or a role of its own"})
	}
}

// actions are what a rotation needs.
func (c *check) actions() []string {
	needed := []string{"iam:CreateAccessKey", "iam:UpdateAccessKey", "iam:DeleteAccessKey", "iam:ListAccessKeys", "iam:GetAccessKeyLastUsed"}
	if c.endSessions {
		needed = append(needed, "iam:GetUserPolicy", "iam:PutUserPolicy")
	}
	return needed
}

func (c *check) may(action string) string { return "may do " + action + " for user " + c.user }

func (c *check) allow(action string) string {
	return "allow " + action + " on " + c.arn + " in a policy of the issuer's"
}

func (c *check) denied(action, problem string) {
	c.found(issuer.Finding{What: c.may(action), Problem: problem, Mend: c.allow(action)})
}

// simulate asks IAM what its policies allow; why says why it could not be asked.
func (c *check) simulate(me arn.ARN) (why string) {
	principal, err := c.principal(me)
	if err != nil {
		return err.Error()
	}
	got, err := c.iam.SimulatePrincipalPolicy(c.ctx, &iam.SimulatePrincipalPolicyInput{
		PolicySourceArn: &principal, ActionNames: c.actions(), ResourceArns: []string{c.arn},
	})
	if err != nil {
		return awsconn.Fault(err).Error()
	}
	decided := map[string]types.PolicyEvaluationDecisionType{}
	for _, r := range got.EvaluationResults {
		decided[aws.ToString(r.EvalActionName)] = r.EvalDecision
	}
	for _, action := range c.actions() {
		switch decision, ok := decided[action]; {
		case decision == types.PolicyEvaluationDecisionTypeAllowed:
			c.good(c.may(action))
		case ok:
			c.denied(action, fmt.Sprintf("the policies of %s do not allow %s (%s)", principal, action, decision))
		default:
			c.found(issuer.Finding{What: c.may(action), Problem: "IAM's simulator says nothing about " + action, Mend: c.allow(action), Unknown: true})
		}
	}
	c.places()
	return ""
}

// principal is whose policies are simulated: of a session, its role's, whose path the
// session does not tell.
func (c *check) principal(me arn.ARN) (string, error) {
	switch kind, rest, _ := strings.Cut(me.Resource, "/"); {
	case me.Service == "iam" && kind == "user":
		return me.String(), nil
	case kind == "assumed-role" && c.roleARN != "":
		return c.roleARN, nil
	case kind == "assumed-role":
		role, _, _ := strings.Cut(rest, "/")
		return arn.ARN{Partition: me.Partition, Service: "iam", AccountID: me.AccountID, Resource: "role/" + role}.String(), nil
	}
	return "", fmt.Errorf("%w: IAM does not simulate the policies of %s", backends.ErrUnsupported, me)
}

// places tells how many of the user's two keys there are, which may be as it should be.
func (c *check) places() {
	keys, err := c.keysOf(c.ctx, c.user)
	if err != nil {
		return
	}
	var inactive []string
	for _, k := range keys {
		if k.Status != types.StatusTypeActive {
			inactive = append(inactive, aws.ToString(k.AccessKeyId))
		}
	}
	f := issuer.Finding{What: fmt.Sprintf("user %s has room for another access key: it has %d of %d, %d active", c.user, len(keys), maxKeys, len(keys)-len(inactive))}
	if len(keys) >= maxKeys {
		f.Problem, f.Unknown = "there is none now, which is as it should be within an overlap and the soak after it alone", true
		f.Mend = "delete a key that was not made by keybroker"
		if len(inactive) > 0 {
			f.Mend = "delete " + strings.Join(inactive, ", ") + ", which is inactive and takes a place for ever, unless keybroker itself deletes it after the soak"
		}
	}
	c.found(f)
}

// try does what has no effect: it reads, and turns off a key that cannot exist, which
// IAM answers only after it has looked at the policies.
func (c *check) try(why string) {
	keys, err := c.keysOf(c.ctx, c.user)
	c.tried("iam:ListAccessKeys", err)
	if err == nil {
		c.places()
	}
	_, err = c.iam.UpdateAccessKey(c.ctx, &iam.UpdateAccessKeyInput{UserName: &c.user, AccessKeyId: aws.String(noKey), Status: types.StatusTypeInactive})
	c.tried("iam:UpdateAccessKey", err)
	_, err = c.iam.DeleteAccessKey(c.ctx, &iam.DeleteAccessKeyInput{UserName: &c.user, AccessKeyId: aws.String(noKey)})
	c.tried("iam:DeleteAccessKey", err)
	unknown := []string{"iam:CreateAccessKey"}
	if len(keys) > 0 {
		_, err = c.iam.GetAccessKeyLastUsed(c.ctx, &iam.GetAccessKeyLastUsedInput{AccessKeyId: keys[0].AccessKeyId})
		c.tried("iam:GetAccessKeyLastUsed", err)
	} else {
		unknown = append(unknown, "iam:GetAccessKeyLastUsed")
	}
	if c.endSessions {
		_, _, err = c.sessionsEnded(c.ctx, c.user)
		c.tried("iam:GetUserPolicy", err)
		unknown = append(unknown, "iam:PutUserPolicy")
	}
	for _, action := range unknown {
		c.found(issuer.Finding{What: c.may(action), Unknown: true,
			Problem: action + " cannot be tried without an effect, and IAM's policy simulator could not be asked: " + why,
			Mend:    "allow iam:SimulatePrincipalPolicy on the issuer's own user or role, or see that " + action + " is allowed on " + c.arn})
	}
}

// tried records what came of a call that is allowed if IAM looked for something.
func (c *check) tried(action string, err error) {
	switch fault := awsconn.Fault(err); {
	case err == nil, code(err) == codeNone:
		c.good(c.may(action))
	case errors.Is(fault, backends.ErrDenied):
		c.denied(action, action+": "+fault.Error())
	case errors.Is(fault, backends.ErrConflict):
		c.found(issuer.Finding{What: "the policy that ends sessions is keybroker's own", Problem: fault.Error(), Mend: "delete " + policyName + " of user " + c.user + ", or give it another name"})
	default:
		c.found(issuer.Finding{What: c.may(action), Problem: action + ": " + fault.Error(), Mend: c.allow(action), Unknown: true})
	}
}
