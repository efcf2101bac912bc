package httpapi

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/rotation/issuer"
)

// checkTag is of no credential: tags of rotations begin otherwise.
const checkTag = "keybroker-check"

// Check implements issuer.Checker by the check block. Without one, an API does not tell
// who may create and revoke.
func (i *Issuer) Check(ctx context.Context, sub issuer.Subject) []issuer.Finding {
	const what, mend = "the API takes our credentials", "see to the auth blocks, and to what the credential is allowed to do at the API"
	if err := i.auth.LogIn(ctx); err != nil {
		return []issuer.Finding{{What: what, Problem: err.Error(), Mend: mend}}
	}
	if i.check.request == nil {
		return []issuer.Finding{{
			What: "may create and revoke credentials", Unknown: true,
			Problem: "an API tells that only when it is asked to",
			Mend:    "give the issuer a check block with a request that succeeds only for who may",
		}}
	}
	f := issuer.Finding{What: "the check request succeeds"}
	if _, err := i.call(ctx, i.check, subjectValues(sub)); err != nil {
		f.Problem, f.Mend = err.Error(), mend
	}
	return []issuer.Finding{f}
}

// Check looks for a credential that cannot exist, besides.
func (f *FindingIssuer) Check(ctx context.Context, sub issuer.Subject) []issuer.Finding {
	finding := issuer.Finding{What: "may look credentials up, and the answer is as described"}
	l, err := f.look(ctx, sub, checkTag)
	switch {
	case err != nil:
		finding.Problem, finding.Mend = err.Error(), "see to the auth and find blocks, and to what the credential is allowed to do at the API"
	case len(l.found) > 0:
		finding.Problem = "there is a credential with the tag " + checkTag + ", which no rotation made"
		finding.Mend = "find out who made it, and delete it"
	}
	findings := append(f.Issuer.Check(ctx, sub), finding)
	if l.unsaid != "" {
		findings = append(findings, issuer.Finding{
			What: "the answer says whether there are more pages", Unknown: true,
			Problem: "the first page has nothing at " + l.unsaid + ", and was taken for the last",
			Mend:    "compare the path with what the API answers",
		})
	}
	if l.items > 0 && l.tagged == 0 {
		findings = append(findings, issuer.Finding{
			What: "credentials are found by their tag", Unknown: true,
			Problem: fmt.Sprintf("none of the %d credentials that the API lists has a text at %s", l.items, f.tag),
			Mend:    "compare the path with what the API answers, if one of them was made by a rotation",
		})
	}
	return findings
}
