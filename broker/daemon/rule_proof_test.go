package daemon_test

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// lingering lets keys that are revoked from now on work at the API until end is called.
func (o *operated) lingering() (end func()) {
	const latency = time.Hour
	var at atomic.Pointer[time.Time]
	now := time.Now()
	at.Store(&now)
	o.api.SetClock(func() time.Time { return *at.Load() })
	o.api.SetRevocationLatency(latency)
	return func() {
		later := now.Add(latency)
		at.Store(&later)
	}
}

// retirementOf returns the retirement of a version with its tries.
func (o *operated) retirementOf(t *testing.T, version int) client.Retirement {
	t.Helper()
	for _, r := range o.retirementsOf(t, mailer) {
		if r.Version == version {
			return must(o.Retirement(t.Context(), r.ID))(t)
		}
	}
	return client.Retirement{}
}

// tryCount counts the tries of the revoked key, or of the control, with a verdict.
func tryCount(r client.Retirement, purpose, verdict string) (n int) {
	for _, x := range r.Tries {
		if x.Purpose == purpose && x.Verdict == verdict {
			n++
		}
	}
	return n
}

// TestRule12OneRejectionProvesNothing: of the API's servers every second one has
// heard of the revocation, for as long as the test lasts.
func TestRule12OneRejectionProvesNothing(t *testing.T) {
	t.Parallel()
	o := newOperated(t)
	o.node = o.start()
	o.done(t, mailer)
	old := o.value(t, mailer).Fields["key"]
	end := o.lingering()
	o.api.SetFlapping(2)
	id := o.begin(t, mailer, client.RotationRetiring)
	var r client.Retirement
	eventually(t, "rejections with acceptances between them", func() bool {
		r = o.retirementOf(t, 1)
		return tryCount(r, client.PurposeDeath, client.Rejected) >= 2 && tryCount(r, client.PurposeDeath, client.Accepted) >= 2 || r.State == client.ProvenDead
	})
	if r.State == client.ProvenDead || !r.ProvenAt.IsZero() || r.ContainedAt.IsZero() {
		t.Errorf("it flaps and is %s, contained %s, proven %s", r.State, r.ContainedAt, r.ProvenAt)
	}
	if rot := must(o.Rotation(t.Context(), id))(t); rot.State != client.RotationRetiring || !o.api.Works(old) {
		t.Errorf("the rotation is %s; the old key works: %v", rot.State, o.api.Works(old))
	}
	accepted := r.LastAcceptedAt
	end()
	rot, retirements := o.follow(t, id)
	if proof := retirements[1]; rot.State != client.RotationDone || proof.State != client.ProvenDead || o.api.Works(old) ||
		proof.LastAcceptedAt.Before(accepted) || !proof.ContainedAt.After(proof.LastAcceptedAt) {
		t.Errorf("%s, version 1 is %s, accepted until %s, contained %s", rot.State, proof.State, proof.LastAcceptedAt, proof.ContainedAt)
	}
}

// roundsOf waits until a retirement has had so many rounds, each of them asked for.
func (o *operated) roundsOf(t *testing.T, version, rounds int) (r client.Retirement) {
	t.Helper()
	eventually(t, "rounds of tries", func() bool {
		r = o.retirementOf(t, version)
		if r.State == client.ProvenDead {
			return true // which the test wants to tell
		}
		if r.ID != "" {
			_, _ = o.Probe(t.Context(), r.ID, client.InterventionRequest{})
		}
		last := 0
		for _, x := range r.Tries {
			if x.Purpose == client.PurposeDeath {
				last = max(last, x.Round)
			}
		}
		return last >= rounds
	})
	return r
}

// TestRule13AProbeThatRejectsEverythingProvesNothing: the endpoint has lost its
// database, and refuses all keys, while the revoked one still works at heart.
func TestRule13AProbeThatRejectsEverythingProvesNothing(t *testing.T) {
	t.Parallel()
	for control, c := range map[string]struct {
		pairs    []string
		replaced bool // there is a current version beside the revoked one
	}{
		"current_version": {replaced: true},
		"canary":          {pairs: []string{"  accepted {", "  canary = { key = env(\"CANARY\") }\n  accepted {"}},
	} {
		t.Run(control, func(t *testing.T) {
			t.Parallel()
			o := overlapOf(t, `overlap = "1h"`, c.pairs...)
			o.env["CANARY"] = o.api.Canary()
			o.node = o.start()
			o.done(t, mailer)
			old := o.value(t, mailer).Fields["key"]
			em := client.EmergencyRequest{Reason: "leaked", Contain: client.RevokeFirst, Versions: []int{1}}
			if c.replaced {
				o.begin(t, mailer, client.RotationOverlap)
			} else {
				o.api.Override(minted, http.StatusServiceUnavailable, always)
			}
			end := o.lingering()
			o.api.SetStanding("", keyserver.RejectingAll)
			must(o.Emergency(t.Context(), mailer, em))(t)

			r := o.roundsOf(t, 1, 4)
			if tryCount(r, client.PurposeDeath, client.Rejected) < 4 || tryCount(r, client.PurposeControl, client.Rejected) < 4 {
				t.Errorf("tries: %+v", r.Tries)
			}
			if r.State != client.Acknowledged || !r.ContainedAt.IsZero() || !r.ProvenAt.IsZero() {
				t.Errorf("every key is rejected, and version 1 is %s, contained %s", r.State, r.ContainedAt)
			}
			o.api.SetStanding("", keyserver.Judging)
			eventually(t, "a round that tells the truth", func() bool {
				_, _ = o.Probe(t.Context(), r.ID, client.InterventionRequest{})
				now := o.retirementOf(t, 1)
				return now.State == client.ProvenDead || tryCount(now, client.PurposeDeath, client.Accepted) > 0
			})
			if r = o.retirementOf(t, 1); r.State == client.ProvenDead || !o.api.Works(old) {
				t.Errorf("it works, and is %s", r.State)
			}
			end()
			if r = o.proven(t, mailer, 1); r.Control != control || r.LastAcceptedAt.IsZero() {
				t.Errorf("proven by the control %s, last accepted %s", r.Control, r.LastAcceptedAt)
			}
			o.api.Override(minted, 0, 0)
		})
	}
}

// TestRule14TheSealedCopyLivesForTheProbeAlone: it is kept while there is probing
// to do, read by nobody else, and gone after the last re-check.
func TestRule14TheSealedCopyLivesForTheProbeAlone(t *testing.T) {
	t.Parallel()
	o := newOperated(t, `window     = "500ms"`, "window     = \"500ms\"\n    recheck    = [\"1h\"]")
	o.node = o.start()
	ctx, db := t.Context(), o.database(t)
	o.done(t, mailer, mailer)
	dead := o.proven(t, mailer, 1)
	if len(sealedOf(t, db, 1)) == 0 {
		t.Fatal("the copy is gone, and the re-check is to come")
	}
	refused(t, "reading it", second(o.Value(ctx, mailer, 1)), http.StatusNotFound, "retired")
	must(o.Probe(ctx, dead.ID, client.InterventionRequest{}))(t)
	eventually(t, "a try with it", func() bool { return tryCount(o.retirementOf(t, 1), client.PurposeRecheck, client.Rejected) == 1 })

	// An hour passes.
	o.stop()
	editRecord(t, db, "retirements", dead.ID, func(record map[string]any) {
		record["proven_at"] = dead.ProvenAt.Add(-time.Hour)
		record["next_at"] = dead.ProvenAt
	})
	exec(t, db, "UPDATE retirements SET next_at = 1")
	o.node = o.start()
	eventually(t, "the purge", func() bool { return len(sealedOf(t, db, 1)) == 0 })
	last := o.retirementOf(t, 1)
	if last.State != client.ProvenDead || tryCount(last, client.PurposeRecheck, client.Rejected) != 2 || len(last.Rechecks) != 1 || last.Rechecks[0].Verdict != client.Rejected {
		t.Errorf("it is %s; its re-checks are %+v", last.State, last.Rechecks)
	}
	refused(t, "trying it once more", second(o.Probe(ctx, dead.ID, client.InterventionRequest{})), http.StatusConflict, "nothing left to try")
	if len(sealedOf(t, db, 2)) == 0 {
		t.Error("the copy of the current version is gone too")
	}
	o.stop()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	secrets := o.api.Secrets()
	if !slices.ContainsFunc(secrets, o.api.Works) || len(secrets) != 2 {
		t.Fatalf("there are %d secrets to look for", len(secrets))
	}
	eachFile(t, filepath.Join(o.dir, "data"), func(name string, content []byte) {
		for i, secret := range secrets {
			if bytes.Contains(content, []byte(secret)) {
				t.Errorf("%s holds the plaintext of version %d", name, i+1)
			}
		}
	})
}

// editRecord changes the record of a row behind the back of a node that is stopped.
func editRecord(t *testing.T, db *sql.DB, table, id string, edit func(record map[string]any)) {
	t.Helper()
	var text string
	if err := db.QueryRowContext(t.Context(), "SELECT record FROM "+table+" WHERE id = ?", id).Scan(&text); err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal([]byte(text), &record); err != nil {
		t.Fatal(err)
	}
	edit(record)
	b, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "UPDATE "+table+" SET record = ? WHERE id = ?", string(b), id); err != nil {
		t.Fatal(err)
	}
}

// eachFile reads every file below a directory.
func eachFile(t *testing.T, dir string, look func(name string, content []byte)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(name)
		look(name, content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
