package rotation

import "time"

// InPlace is what a rotation keeps whose mint ends the old credential at once,
// since its issuer has a single account for it: nobody can try the old one once the
// new one is set, and where the rotation comes to nothing the old one is set again.
type InPlace struct {
	// Before is what the last try of the old credential showed before the new one was
	// set; empty: it was not tried yet.
	Before     Verdict   `json:"before,omitempty"`
	BeforeAt   time.Time `json:"before_at,omitzero"`
	BeforeBy   string    `json:"before_by,omitempty"` // endpoint and digest of the probe
	Rejections int       `json:"rejections,omitempty"`
	Since      time.Time `json:"since,omitzero"` // of the first try

	Begun bool `json:"begun,omitempty"` // the new one may be set
	// Back is how the rotation ends once the old credential is set again; nil: it goes on.
	Back *Ending `json:"back,omitempty"`
	Done bool    `json:"done,omitempty"` // the old one is set again
	Lost bool    `json:"lost,omitempty"` // it could not be set again: no version may work
}

// Ending is an end that a rotation is on the way to.
type Ending struct {
	As  State  `json:"as"`
	Why string `json:"why"`
}

// TriedOld records a try of the old credential before the new one is set. One
// rejection is not believed (rule 12), but no more are made than its account bears
// where it is locked after limit of them (0: never): the new one is tried there, too.
// What cannot be told delays the rotation only for as long as it takes to verify a new one.
func (r *Rotation) TriedOld(v Verdict, by, detail string, limit int, now time.Time) {
	most := max(r.Plan.Confirm.Rejections, 1)
	if limit > 0 {
		most = min(most, max(limit/2, 1))
	}
	p := InPlace{}
	if r.InPlace != nil {
		p = *r.InPlace
	}
	if p.Since.IsZero() {
		p.Since = now
	}
	p.BeforeAt, p.BeforeBy = now, by
	switch {
	case v == Accepted:
		p.Before = v
	case v == Rejected:
		if p.Rejections++; p.Rejections >= most {
			p.Before = v
		}
	}
	if p.Before == "" && now.Sub(p.Since) >= r.Plan.Verify.Timeout {
		p.Before = Inconclusive
	}
	r.InPlace = &p
	if p.Before == "" {
		r.Error = "the credential that is to be replaced was " + string(v) + ": " + detail
		r.NextAt, r.WaitingFor = now.Add(max(r.Plan.Verify.Interval, minRoundGap)), WaitProbe
	}
}

// SetsInPlace records, with the intent to mint, that the old credential ends with it.
func (r *Rotation) SetsInPlace() {
	p := InPlace{}
	if r.InPlace != nil {
		p = *r.InPlace
	}
	p.Begun = true
	r.InPlace = &p
}

// mustPutBack tells whether the rotation cannot end without the old credential
// being set again. What an emergency replaces never is.
func (r *Rotation) mustPutBack() bool {
	return r.InPlace != nil && r.InPlace.Begun && !r.InPlace.Done && r.InPlace.Back == nil && r.From > 0 && !r.Emergency() && r.PublishedAt.IsZero()
}

// EndsOld tells whether the mint of the rotation may have ended the current version,
// which nothing has replaced yet.
func (r *Rotation) EndsOld() bool {
	return r.InPlace != nil && r.InPlace.Begun && !r.InPlace.Done && r.State.Occupies() && r.PublishedAt.IsZero()
}

// PuttingBack tells whether the old credential is being set again, after which the
// rotation ends.
func (r *Rotation) PuttingBack() bool { return r.InPlace != nil && r.InPlace.Back != nil }

// putBackTries is how often a refusal to set the old value again is not believed: the
// broker may have been given another login meanwhile.
const putBackTries = 10

// GivesUpPuttingBack tells whether a refusal is final (rule 3).
func (r *Rotation) GivesUpPuttingBack(invalid, denied bool) bool {
	return invalid && r.Failures+1 >= MaxMints || denied && r.Failures+1 >= putBackTries
}

// putBack tells whether the new credential has ended again, since the old one was set:
// a rollback can only go on.
func (r *Rotation) putBack() bool { return r.InPlace != nil && r.InPlace.Done }

func (r *Rotation) giveUp(as State, why string, now time.Time) {
	p := *r.InPlace
	p.Back = &Ending{As: as, Why: why}
	r.InPlace = &p
	r.Intent, r.Failures, r.NextAt, r.WaitingFor, r.Error = nil, 0, now, "", why
	r.UnheardAt = time.Time{}
}

// WasPutBack records that the old credential is set again: the rotation ends, or
// its rollback goes on.
func (r *Rotation) WasPutBack(now time.Time) {
	p := *r.InPlace
	p.Done = true
	back := p.Back
	r.InPlace = &p
	if back == nil {
		r.Intent, r.Failures, r.NextAt = nil, 0, now
		return
	}
	p.Back = nil
	r.enter(back.As, now)
	r.Error = back.Why
}

// NotPutBack ends a rotation whose old credential cannot be set again: neither may
// work now.
func (r *Rotation) NotPutBack(why string, now time.Time) {
	p := *r.InPlace
	back := p.Back
	p.Back, p.Done, p.Lost = nil, true, true
	r.InPlace = &p
	r.enter(back.As, now)
	r.Error = back.Why + "; and the old value was not set again: " + why
}

// Displaced records that the credential ended when another value was set in its
// place: what was seen of it before that is all there is.
func (t *Retirement) Displaced(p InPlace) {
	if p.Rejections > 0 {
		t.Tries, t.TriedAt = p.Rejections, p.BeforeAt
	}
	t.Before, t.BeforeBy = p.Before, p.BeforeBy
	switch p.Before {
	case Accepted:
		t.LastAcceptedAt, t.BeforeFrom = p.BeforeAt, p.Since
	case Rejected:
		t.AlreadyRejected, t.BeforeFrom = true, p.Since
	}
}
