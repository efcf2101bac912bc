package httpapi

import (
	"context"

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
	found, err := f.Find(ctx, sub, checkTag)
	switch {
	case err != nil:
		finding.Problem, finding.Mend = err.Error(), "see to the auth and find blocks, and to what the credential is allowed to do at the API"
	case len(found) > 0:
		finding.Problem = "there is a credential with the tag " + checkTag + ", which no rotation made"
		finding.Mend = "find out who made it, and delete it"
	}
	return append(f.Issuer.Check(ctx, sub), finding)
}
