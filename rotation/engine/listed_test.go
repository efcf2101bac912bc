package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// careless makes the next credential and gives its handle alone.
type careless struct {
	*issuerOf
	once *bool
}

func (i careless) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	cred, err := i.issuerOf.Issue(ctx, req)
	if err == nil && *i.once {
		*i.once = false
		return issuer.Credential{Handle: cred.Handle}, fmt.Errorf("%w: the answer has no value", backends.ErrUnavailable)
	}
	return cred, err
}

// A credential of which only the handle was heard is revoked by that, also by an issuer
// that finds nothing, and another one is minted.
func TestAnAnswerThatIsNotWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.under("blind", nil)
		w.issuers["blind"].traits.MaxLive, w.issuers["blind"].slowest = 0, 0
		once := true
		w.catalog["blind"] = careless{w.issuers["blind"], &once}
		w.rotate(t)
		w.advance(24 * time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			if r := w.rotationNumber(0); r.State != rotation.Done || w.secret().Current != 2 {
				wrong("the rotation is %s: %s, and current is version %d", r.State, r.Error, w.secret().Current)
			}
			if w.alive(1) || !w.alive(2) {
				wrong("what was made in vain lives: %t, what is current: %t", w.alive(1), w.alive(2))
			}
		})
	})
}

// barred may not list.
type barred struct {
	listed
	err error
}

func (i barred) List(context.Context, issuer.Subject) ([]issuer.Handle, error) { return nil, i.err }

// What the issuer refuses before a mint fails the rotation as soon as a refused mint
// would; what is only out of order is waited for.
func TestAListThatIsRefused(t *testing.T) {
	for err, want := range map[error]rotation.State{backends.ErrDenied: rotation.Failed, backends.ErrInvalid: rotation.Failed, backends.ErrUnavailable: rotation.Queued} {
		t.Run(err.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := calmWorld(calmPlan(), 0)
				w.under("listed", nil)
				w.catalog["listed"] = barred{listed{w.issuers["listed"]}, err}
				w.rotate(t)
				w.advance(2 * time.Hour)
				w.verdict(t, func(wrong func(string, ...any)) {
					if r := w.rotationNumber(0); r.State != want || !strings.Contains(r.Error, err.Error()) {
						wrong("the rotation is %s: %s", r.State, r.Error)
					}
				})
			})
		})
	}
}

// A key that another block's version has is not taken for the one that was lost, though
// both blocks say that nobody else makes keys.
func TestALostAnswerAndAnotherBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.under("listed", nil)
		w.issuers["listed"].traits = issuer.Traits{Kind: issuer.Mint, Exclusive: true}
		w.issuers["listed"].slowest = 0
		w.rotate(t)
		w.advance(time.Minute)
		// From now on the same system is asked by another name; its list before the mint
		// is older than the first version, as if that were another secret's, made meanwhile.
		w.catalog["renamed"] = &forgetful{listed: listed{w.issuers["listed"]}}
		w.under("renamed", nil)
		w.rotate(t)
		w.advance(30 * time.Minute)
		w.verdict(t, func(wrong func(string, ...any)) {
			if !w.alive(1) {
				wrong("the other block's current key was revoked")
			}
		})
	})
}

// forgetful loses its first request, and lists nothing before it.
type forgetful struct {
	listed
	lost bool
}

func (i *forgetful) List(ctx context.Context, sub issuer.Subject) ([]issuer.Handle, error) {
	if !i.lost {
		return nil, nil
	}
	return i.listed.List(ctx, sub)
}

func (i *forgetful) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	if !i.lost {
		i.lost = true
		return issuer.Credential{}, fmt.Errorf("%w: it is lost", backends.ErrUnavailable)
	}
	return i.listed.Issue(ctx, req)
}

// A handle in an account that the settings do not name is refused when it is given: by
// it nothing could be revoked.
func TestAHandleInAnotherAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.under("pair", nil)
		w.stranger(w.vault, true)
		e, ctx := w.nodes[0].engine, context.Background()
		for _, dry := range []bool{true, false} {
			_, err := e.Import(ctx, secretID, engine.ImportRequest{Asked: someone, DryRun: dry, Handles: map[backends.VersionID]issuer.Handle{"": {"slot": "another", "id": "1"}}})
			if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "another") {
				t.Errorf("importing it: %v", err)
			}
		}
		if _, err := e.Import(ctx, secretID, engine.ImportRequest{Asked: someone}); err != nil {
			t.Fatal(err)
		}
		give := func(slot string) error {
			return w.ask(func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				return e.GiveHandle(ctx, tx, secretID, 1, issuer.Handle{"slot": slot, "id": "1"}, someone)
			})
		}
		if err := give("another"); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("giving it: %v", err)
		}
		if err := give("a"); err != nil {
			t.Errorf("giving one that is named: %v", err)
		}
	})
}

// Two versions whose mints were lost take two keys: what one worker has found for the
// first, just before another notes it for the second, is not the second's.
func TestTwoLostMintsTakeTwoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.under("listed", nil)
		w.issuers["listed"].traits = issuer.Traits{Kind: issuer.Mint, Exclusive: true}
		w.issuers["listed"].slowest = 0
		now := time.Now()
		for n := 1; n <= 2; n++ {
			v := rotation.Version{SecretID: secretID, Ref: secretRef, Number: n, Stage: rotation.StageRetired, RotationID: "lost", Attempt: n,
				Tag: fmt.Sprintf("kb-lost-%d", n), Issuer: "listed", Backend: "vault", CreatedAt: now}
			w.store.state.versions.put(versionKey{secretID, n}, v)
			r := rotation.Retirement{ID: fmt.Sprintf("t-%d", n), SecretID: secretID, Version: n, Cause: rotation.CauseOrphan, State: rotation.Requested,
				Confirm: calmPlan().Confirm, RequestedAt: now, DueAt: now, NextAt: now, Revision: 1}
			w.store.state.retirements.put(r.ID, r)
			if _, err := w.issuers["listed"].create(v.Tag, ""); err != nil {
				t.Fatal(err)
			}
		}
		w.stepRetirement(t, 2, event{"listing", func() {}}, event{"viewed", func() {}}, event{"transaction", func() {
			one, _ := w.version(1)
			one.Handle = issuer.Handle{"id": "listed-1"}
			w.store.state.versions.put(versionKey{secretID, 1}, one)
		}})
		w.advance(time.Hour)
		w.verdict(t, func(wrong func(string, ...any)) {
			for _, c := range w.issuers["listed"].made {
				if c.revokedAt.IsZero() {
					wrong("%s lives on and is forgotten", c.id)
				}
			}
		})
	})
}
