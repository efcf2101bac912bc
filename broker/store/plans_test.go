package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// What every read and every step asks for costs the same after a million
// versions: no query looks at a whole table or at all that a secret ever had.
func TestQueriesUseIndexes(t *testing.T) {
	ctx, page := t.Context(), store.Page{Limit: 10}
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		db := open(t, cfg)
		s := addSecret(t, db, "a")
		setting := "SELECT 1"
		if cfg.SQLitePath == "" { // SQLite chooses by the schema alone
			setting = "SET LOCAL enable_seqscan = off" // whole tables are read only where no index serves
			for i := range 29 {
				addSecret(t, db, fmt.Sprint("b", i))
			}
			update(t, db, func(tx *store.Tx) error { return growOld(ctx, tx) })
		}
		d := newDelivery(s, "web", 5000)
		pairGate := engine.Gate{Kind: rotation.WaitPair, Tenant: s.Ref.Tenant, Pair: "p", Room: 1}
		policyGate := engine.Gate{Kind: rotation.WaitConcurrency, Policy: "p", Room: 2}
		for _, tt := range []struct {
			name    string
			indexes string // that are named in the plans of both databases
			query   func(tx *store.Tx) error
		}{
			{"due", "rotations_due retirements_due deliveries_due incidents_due", func(tx *store.Tx) error {
				_, err := tx.Due(ctx, now, 10)
				return err
			}},
			{"beginning", "secrets_due rotations_one_per_secret rotations_due", func(tx *store.Tx) error { _, err := tx.Beginning(ctx, now, 10); return err }},
			{"waiting", "rotations_waiting", func(tx *store.Tx) error { _, err := tx.Waiting(ctx, "freeze"); return err }},
			{"through the gate of a pair", "secrets_of_pair rotations_one_per_secret", func(tx *store.Tx) error {
				_, err := tx.Through(ctx, pairGate, s.ID)
				return err
			}},
			{"through the gate of a policy", "rotations_making", func(tx *store.Tx) error { _, err := tx.Through(ctx, policyGate, s.ID); return err }},
			{"at the gate of a pair", "secrets_of_pair", func(tx *store.Tx) error {
				_, err := tx.Waiters(ctx, pairGate, "a", 2)
				return err
			}},
			{"at the gate of a policy", "rotations_waiting", func(tx *store.Tx) error { _, err := tx.Waiters(ctx, policyGate, "a", 2); return err }},
			{"versions", "versions_open retirements_open", func(tx *store.Tx) error { _, err := tx.Versions(ctx, s.ID); return err }},
			{"retirements", "versions_open retirements_open", func(tx *store.Tx) error { _, err := tx.Retirements(ctx, s.ID); return err }},
			{"newest versions", "", func(tx *store.Tx) error { _, err := tx.RecentVersions(ctx, s.ID, 10); return err }},
			{"retirements from a version", "", func(tx *store.Tx) error { _, err := tx.RetirementsOf(ctx, s.ID, 1990); return err }},
			{"retirements of a rotation", "retirements_by_rotation", func(tx *store.Tx) error {
				_, err := tx.RetirementsOfRotation(ctx, "rot")
				return err
			}},
			{"live rotations", "rotations_live", func(tx *store.Tx) error { _, err := tx.LiveRotations(ctx, s.ID); return err }},
			{"abandoned versions", "versions_pending", func(tx *store.Tx) error { _, err := tx.Abandoned(ctx, 10); return err }},
			{"version by fingerprint", "fingerprints_lookup", func(tx *store.Tx) error {
				if _, err := tx.VersionWith(ctx, s, map[string]string{"key": "fp"}); !errors.Is(err, backends.ErrNotFound) {
					return err
				}
				return nil
			}},
			{"an event by its key", "", func(tx *store.Tx) error {
				if _, err := tx.EventOf(ctx, "t", "k"); !errors.Is(err, backends.ErrNotFound) {
					return err
				}
				return nil
			}},
			{"events", "events_by_time", func(tx *store.Tx) error { _, _, err := tx.Events(ctx, store.EventFilter{}, page); return err }},
			{"events of a trigger", "events_of_trigger", func(tx *store.Tx) error {
				_, _, err := tx.Events(ctx, store.EventFilter{Trigger: "t"}, page)
				return err
			}},
			{"held events of a trigger", "events_held", func(tx *store.Tx) error { _, err := tx.HeldEvents(ctx, "t"); return err }},
			{"unfinished events", "events_receiving", func(tx *store.Tx) error { _, err := tx.UnfinishedEvents(ctx, now, 10); return err }},
			{"unresolved events", "events_unresolved", func(tx *store.Tx) error { _, err := tx.UnresolvedEvents(ctx, "", 10); return err }},
			{"what a trigger did", "event_acts_lately", func(tx *store.Tx) error { _, err := tx.EventActs(ctx, "t", now); return err }},
			{"versions by the fingerprints of fields", "fingerprints_lookup", func(tx *store.Tx) error {
				_, err := tx.VersionsWithField(ctx, s.Ref.Tenant, "fp1", "fp2", "fp3")
				return err
			}},
			{"tenants with fields", "fingerprints_lookup", func(tx *store.Tx) error { _, err := tx.TenantsWithFields(ctx); return err }},
			{"reads of a version", "", func(tx *store.Tx) error { _, err := tx.Reads(ctx, s.ID, 7, 10); return err }},
			{"reads by who", "reads_of_role reads_of_who", func(tx *store.Tx) error {
				_, err := tx.ReadBy(ctx, store.ReadFilter{Who: "shop", Tenant: s.Ref.Tenant, Since: now})
				return err
			}},
			{"reads from a network", "reads_of_address", func(tx *store.Tx) error {
				_, err := tx.ReadBy(ctx, store.ReadFilter{Network: netip.MustParsePrefix("10.0.0.0/8"), Since: now})
				return err
			}},
			{"reads by who from a network", "", func(tx *store.Tx) error {
				_, err := tx.ReadBy(ctx, store.ReadFilter{Who: "shop", Network: netip.MustParsePrefix("10.0.0.0/8")})
				return err
			}},
			{"what a consumer was sent", "deliveries_of_consumer", func(tx *store.Tx) error { return tx.ToldTo(ctx, "web3", func(store.Told) {}) }},
			{"who was sent a version", "", func(tx *store.Tx) error { _, err := tx.ToldOf(ctx, s.ID, 7); return err }},
			{"version by handle", "versions_handle", func(tx *store.Tx) error {
				if _, err := tx.VersionByHandle(ctx, "mailer", map[string]string{"id": "a"}); !errors.Is(err, backends.ErrNotFound) {
					return err
				}
				return nil
			}},
			{"incidents", "incidents_by_time", func(tx *store.Tx) error { _, _, err := tx.Incidents(ctx, store.IncidentFilter{}, page); return err }},
			{"incidents of a secret", "incident_targets", func(tx *store.Tx) error {
				_, _, err := tx.Incidents(ctx, store.IncidentFilter{SecretID: s.ID}, page)
				return err
			}},
			{"incidents of a trigger", "incidents_of_trigger", func(tx *store.Tx) error {
				_, _, err := tx.Incidents(ctx, store.IncidentFilter{Trigger: "siem"}, page)
				return err
			}},
			{"versions of secrets", "", func(tx *store.Tx) error {
				_, err := tx.VersionsOf(ctx, []store.Alive{{SecretID: s.ID, Number: 1}, {SecretID: "b", Number: 2}})
				return err
			}},
			{"secrets of an incident", "", func(tx *store.Tx) error { _, err := tx.Targets(ctx, "inc1"); return err }},
			{"what is not declared", "incident_targets_undeclared", func(tx *store.Tx) error { _, err := tx.Undeclared(ctx, "inc1", 10); return err }},
			{"how far an incident is", "", func(tx *store.Tx) error { _, err := tx.Tally(ctx, "inc1"); return err }},
			{"the incident of a rotation", "incident_targets_of_rotation", func(tx *store.Tx) error {
				_, err := tx.IncidentsOfRotation(ctx, "rot")
				return err
			}},
			{"the incidents of a version", "incident_versions_of_version", func(tx *store.Tx) error { _, err := tx.IncidentsOfVersion(ctx, s.ID, 1); return err }},
			{"the tokens of a role", "tokens_of_role", func(tx *store.Tx) error { _, err := tx.RevokeTokensOfRole(ctx, "ci", now); return err }},
			{"the state of a consumer", "quarantines_going_on", func(tx *store.Tx) error { _, err := tx.ConsumerState(ctx, "web"); return err }},
			{"quarantines of an incident", "quarantines_of_incident", func(tx *store.Tx) error { _, err := tx.QuarantinesOf(ctx, "inc1"); return err }},
			{"held evidence", "incidents_holding", func(tx *store.Tx) error { _, err := tx.EvidenceHeld(ctx); return err }},
			{"troubled retirements", "retirements_troubled", func(tx *store.Tx) error {
				return tx.TroubledRetirements(ctx, func(store.RetirementOf) {})
			}},
			{"stuck removals", "retirements_stuck", func(tx *store.Tx) error {
				return tx.StuckRemovals(ctx, func(store.RetirementOf) {})
			}},
			{"states of subjects", "alerts_open", func(tx *store.Tx) error { _, err := tx.StatesOfSubjects(ctx, "unprovable"); return err }},
			{"stuck deliveries", "deliveries_dead deliveries_of_generation", func(tx *store.Tx) error {
				return tx.StuckDeliveries(ctx, now, func(rotation.Delivery) {})
			}},
			{"unreplaced deliveries", "deliveries_unreplaced", func(tx *store.Tx) error { return tx.UnreplacedDeliveries(ctx, func(rotation.Delivery) {}) }},
			{"held overlaps", "", func(tx *store.Tx) error { return tx.HeldOverlaps(ctx, func(store.RotationOf) {}) }},
			{"failed rotations", "rotations_failed", func(tx *store.Tx) error { return tx.FailedRotations(ctx, func(store.RotationOf) {}) }},
			{"ending versions", "versions_ending", func(tx *store.Tx) error { return tx.EndingVersions(ctx, now, func(rotation.Version) {}) }},
			{"waiting rotations", "rotations_waiting", func(tx *store.Tx) error { return tx.WaitingRotations(ctx, "issuer", func(store.RotationOf) {}) }},
			{"astray placements", "placements_out_of_step", func(tx *store.Tx) error { return tx.AstrayPlacements(ctx, func(store.Astray) {}) }},
			{"unsettled alerts", "", func(tx *store.Tx) error { _, err := tx.UnsettledAlerts(ctx); return err }},
			{"all alerts", "alerts_by_opening", func(tx *store.Tx) error { _, _, err := tx.AlertsPage(ctx, store.AlertFilter{}, page); return err }},
			{"raising an alert", "alerts_ended", func(tx *store.Tx) error { return tx.RaiseAlert(ctx, store.Raise{Kind: "drift", Subject: "a"}) }},
			{"sending", "deliveries_leased", func(tx *store.Tx) error { _, err := tx.Sending(ctx, d.ID, now); return err }},
			{"leasing", "deliveries_leased", func(tx *store.Tx) error { return tx.LeaseDelivery(ctx, &d, now) }},
			{"deliveries of a generation", "deliveries_of_generation", func(tx *store.Tx) error { _, err := tx.Deliveries(ctx, s.ID, 7); return err }},
			{"adding a delivery", "deliveries_pending", func(tx *store.Tx) error { return tx.AddDelivery(ctx, &d) }},
			{"adding a try", "", func(tx *store.Tx) error { return tx.AddTry(ctx, s.ID, rotation.Try{}) }},
			{"all secrets", "", func(tx *store.Tx) error { _, _, err := tx.Secrets(ctx, store.SecretFilter{}, page); return err }},
			{"secrets of a name", "", func(tx *store.Tx) error {
				_, _, err := tx.Secrets(ctx, store.SecretFilter{Name: "a"}, page)
				return err
			}},
			{"all rotations", "rotations_by_start", func(tx *store.Tx) error { _, _, err := tx.Rotations(ctx, store.RotationFilter{}, page); return err }},
			{"all live rotations", "rotations_live_by_start", func(tx *store.Tx) error {
				_, _, err := tx.Rotations(ctx, store.RotationFilter{Live: true}, page)
				return err
			}},
			{"rotations of a secret", "rotations_by_secret", func(tx *store.Tx) error {
				_, _, err := tx.Rotations(ctx, store.RotationFilter{SecretID: s.ID}, page)
				return err
			}},
			{"all retirements", "retirements_by_request", func(tx *store.Tx) error {
				_, _, err := tx.RetirementsPage(ctx, store.RetirementFilter{}, page)
				return err
			}},
			{"retirements of a secret", "retirements_by_secret", func(tx *store.Tx) error {
				_, _, err := tx.RetirementsPage(ctx, store.RetirementFilter{SecretID: s.ID}, page)
				return err
			}},
			{"all deliveries", "deliveries_by_creation", func(tx *store.Tx) error {
				_, _, err := tx.DeliveriesPage(ctx, store.DeliveryFilter{}, page)
				return err
			}},
			{"deliveries of a secret", "deliveries_by_secret", func(tx *store.Tx) error {
				_, _, err := tx.DeliveriesPage(ctx, store.DeliveryFilter{SecretID: s.ID}, page)
				return err
			}},
			{"tries of a retirement", "tries_by_retirement", func(tx *store.Tx) error { _, _, err := tx.TriesOfRetirement(ctx, "ret", page); return err }},
			{"values by key", "versions_sealed_by local_versions_sealed_by", func(tx *store.Tx) error { _, err := tx.SealedBy(ctx); return err }},
			{"alive versions", "versions_open versions_foreign", func(tx *store.Tx) error { _, err := tx.AliveVersions(ctx, []string{s.ID, "b"}); return err }},
			{"secrets of an incident", "", func(tx *store.Tx) error { _, err := tx.TargetSecrets(ctx, "inc"); return err }},
			{"what is replaced", "", func(tx *store.Tx) error { _, err := tx.ReplacedTargets(ctx, "inc"); return err }},
			{"what replaces", "", func(tx *store.Tx) error { _, err := tx.Replacing(ctx, "inc"); return err }},
			{"who is told of replacements", "deliveries_of_generation", func(tx *store.Tx) error { _, err := tx.ReplacementDeliveries(ctx, "inc"); return err }},
			{"issuers of an incident", "", func(tx *store.Tx) error { _, err := tx.IssuersOf(ctx, "inc"); return err }},
			{"what issuers took", "retirements_by_request", func(tx *store.Tx) error { _, err := tx.MeasuredBefore(ctx, now, 10); return err }},
			{"notes of an incident", "", func(tx *store.Tx) error {
				_, err := tx.Notes(ctx, "inc")
				return err
			}},
			{"checklist of an incident", "", func(tx *store.Tx) error { _, err := tx.Checks(ctx, "inc"); return err }},
			{"what an incident leaves out", "", func(tx *store.Tx) error { _, err := tx.SkippedOf(ctx, "inc"); return err }},
			{"tokens", "tokens_by_creation", func(tx *store.Tx) error { _, _, err := tx.Tokens(ctx, store.TokenFilter{}, page); return err }},
			{"root tokens", "tokens_of_root", func(tx *store.Tx) error { _, err := tx.RootTokens(ctx, now); return err }},
			{"logins", "tokens_of_login", func(tx *store.Tx) error { _, err := tx.LiveLogins(ctx, "corp", "alice", "on-call", now); return err }},
		} {
			t.Run(tt.name, func(t *testing.T) { checkPlans(t, db, setting, strings.Fields(tt.indexes), tt.query) })
		}
	})
}

// wholeTable is a part of a plan that reads one: on SQLite SCAN without an index, of
// something else than a subquery, as these are called.
var (
	wholeTable = regexp.MustCompile(`(?m)Seq Scan|^SCAN \w+$`)
	subquery   = regexp.MustCompile(`(?m)^SCAN (ranked|hit|whose|h)$`)
)

func checkPlans(t *testing.T, db *store.DB, setting string, indexes []string, query func(tx *store.Tx) error) {
	t.Helper()
	var plans strings.Builder
	explained := errors.New("explained")
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		if err := tx.Exec(t.Context(), setting); err != nil {
			return err
		}
		tx.Explain(func(query, plan string) {
			if wholeTable.MatchString(subquery.ReplaceAllString(plan, "")) {
				t.Error("a whole table is read")
			}
			plans.WriteString(query + "\n" + plan + "\n")
		})
		return errors.Join(query(tx), explained)
	})
	if !errors.Is(err, explained) || !strings.HasSuffix(err.Error(), "explained") {
		t.Error(err)
	}
	for _, index := range indexes {
		if !regexp.MustCompile(`\b` + index + `\b`).MatchString(plans.String()) {
			t.Errorf("%s is not used", index)
		}
	}
	if t.Failed() {
		t.Log(plans.String())
	}
}

// growOld gives every secret a long past, and PostgreSQL the statistics of it.
func growOld(ctx context.Context, tx *store.Tx) (err error) {
	const past = " FROM secrets s, generate_series(1, 500) n"
	for _, statement := range []string{
		`INSERT INTO versions SELECT s.id, n, s.tenant, CASE n WHEN 500 THEN 'current' ELSE 'retired' END, s.id || n, 1, s.id || n, '',
			'b', 'i', 'p', '', '', '', '', '', NULL, n, n, n, n` + past,
		`INSERT INTO retirements SELECT s.id || n, s.tenant, s.id, n, s.id || n, 'proven_dead', 'rotated', '{}', n, NULL, NULL, 0, 1` + past,
		`INSERT INTO rotations SELECT s.id || n, s.tenant, s.id, 'manual', 'done', 0, NULL, '{}', n, n, NULL, NULL, 1` + past,
		`INSERT INTO rotations SELECT 'live' || s.id || n, s.tenant, s.id, 'manual', 'retiring', 0, 'proof', '{}', n, NULL, 8e15, NULL, 1` + past + ` WHERE n <= 20`,
		`INSERT INTO deliveries SELECT s.id || n, s.tenant, s.id, 'web', n, n, 'e', 't', '', 'applied', 1, 1, '', NULL, n, n, NULL, NULL, n, NULL, n, 1` + past,
		`INSERT INTO deliveries SELECT 'due' || s.id || n, s.tenant, s.id, 'web' || n % 10, n, n, 'e', 't', '', 'pending', 1, 1, '', NULL, n, n, 8e15, NULL, NULL, NULL, NULL, 1` + past + ` WHERE n <= 50`,
		`INSERT INTO reads SELECT s.id, n, 'corp/' || n % 100, 'role' || n % 20, decode(lpad(to_hex(n), 32, '0'), 'hex'), 'tok', n, n` + past,
		`INSERT INTO fingerprints SELECT s.tenant, 'fp' || n, s.id, n, 'key'` + past,
		`INSERT INTO tries SELECT s.id, n, s.tenant, s.id || n, s.id || n, n, n, '{}'` + past,
		`INSERT INTO incidents SELECT 'inc' || s.id || n, s.tenant, 'closed', CASE n % 10 WHEN 0 THEN 'siem' || n % 50 ELSE '' END, FALSE, '{}', n, NULL, 1` + past,
		`INSERT INTO incident_targets SELECT 'inc' || s.id || n, s.id, '[]', 'declared', s.id || n, ''` + past,
		`INSERT INTO incident_versions SELECT 'inc' || s.id || n, s.id, n, s.id || n` + past,
		"ANALYZE",
	} {
		err = errors.Join(err, tx.Exec(ctx, statement))
	}
	return err
}
