package report_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/report"
	"github.com/keybroker/keybroker/rotation"
)

var (
	start = time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC)
	key   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

// tries are those of a proof: accepted once, then three rejected rounds beside a control.
func tries() []client.Try {
	var out []client.Try
	for round, verdict := range []string{client.Accepted, client.Rejected, client.Rejected, client.Rejected} {
		when := at(100 + 10*round)
		out = append(out,
			client.Try{Round: round + 1, Purpose: client.PurposeControl, Version: 2, At: when, Probe: "p", Node: "n1", Address: "10.0.0.1:443", Verdict: client.Accepted},
			client.Try{Round: round + 1, Purpose: client.PurposeDeath, Version: 1, At: when.Add(time.Second / 10), Probe: "p", Node: "n1", Address: "10.0.0.1:443", Verdict: verdict})
	}
	return out
}

func proven() *report.Retirement {
	return &report.Retirement{
		Retirement: client.Retirement{ID: "ret1", State: client.ProvenDead, Reason: "it leaked", Control: "current_version", RequestedAt: at(60), AcknowledgedAt: at(90), LastAcceptedAt: at(101),
			ContainedAt: at(111), ProvenAt: at(131), LastUsedAt: at(50), LastUse: "from 192.0.2.7", Tries: tries(), Scope: &client.Scope{Endpoint: "GET https://api.example/me", Node: "n1", DerivedSessions: "not ended"}},
		Required: report.Required{Rejections: 3, WindowMS: 20_000}, SeriesFrom: at(111), SeriesTo: at(131)}
}

// records are those of an incident of two secrets, of which one is not contained.
func records(t *testing.T) report.Report {
	t.Helper()
	r := report.Report{MadeAt: at(600), MadeBy: "n1", MadeFor: "ops/alice",
		Incident: report.Incident{ID: "inc1", State: client.IncidentOpen, Cause: "declared", Reason: "a key was seen in a <public> repository | and more", DeclaredBy: "tok1", Identity: "ops/alice", Hold: true,
			Selector: client.Selector{Names: []string{"app/key"}}, LeakedAt: at(0), DetectedAt: at(50), DeclaredAt: at(60),
			Notes:      []client.IncidentNote{{At: at(70), By: "ops/alice", Text: "told the customer"}},
			Checklist:  []client.IncidentCheck{{Item: 1, Text: "rotate the SSH key", DoneAt: at(80), DoneBy: "ops/bob"}, {Item: 2, Text: "call the bank"}},
			Quarantine: []client.Quarantine{{Kind: "consumer", Name: "bad", Reason: "it was broken into", By: "ops/alice", At: at(61)}},
			Skipped:    []client.IncidentSkipped{{Secret: "app/other", Tenant: "default", Why: "emergency is not allowed"}}},
		Secrets: []report.Secret{
			{Name: "app/key", Tenant: "default", State: client.TargetDeclared, Current: 2, Consumers: []string{"web", "late", "bad"},
				Versions: []report.Version{
					{Version: 1, Compromised: true, Issuer: "api", CreatedAt: at(-1000), PublishedAt: at(-990), Retirement: proven(),
						Reads: []client.Access{{Version: 1, Role: "app", Actor: "tok9", Address: "10.1.1.1", FirstAt: at(-900), LastAt: at(30)},
							{Version: 1, Role: "app", Actor: "keybroker", Consumer: "late", FirstAt: at(-980), LastAt: at(-980), Unanswered: true}}},
					{Version: 2, PublishedAt: at(75), CreatedAt: at(70)}},
				Rotation: &client.Rotation{ID: "rot1", ToVersion: 2, Steps: []client.Step{{Step: "mint", Outcome: "ok"}, {Step: "publish", Outcome: "ok", EndedAt: at(75)}}},
				Deliveries: []client.Delivery{{ID: "del1", Consumer: "web", Version: 2, State: client.DeliveryApplied, ReceivedAt: at(76), AppliedAt: at(78)},
					{ID: "del2", Consumer: "late", Version: 2, State: client.DeliveryPending, Attempts: 4, Error: "connection refused"}}},
			{Name: "db", Tenant: "acme", State: client.TargetDeclared,
				Versions: []report.Version{{Version: 3, Compromised: true, CreatedAt: at(-500), Retirement: &report.Retirement{
					Retirement: client.Retirement{ID: "ret2", State: client.Requested, RequestedAt: at(60), Error: "the issuer does not answer"}}}}},
		},
		OtherLogs: []report.Log{{Node: "n2", Size: 12, At: at(500)}},
	}
	r.Journal = report.Journal{Node: "n1", Excerpt: journal(t)}
	made, err := report.Make(r)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// journal is what the log of a node says of them.
func journal(t *testing.T) audit.Excerpt {
	t.Helper()
	log, err := audit.Open(audit.Config{Path: filepath.Join(t.TempDir(), "audit.jsonl"), Node: "n1", HashKey: bytes.Repeat([]byte{1}, 32), SigningSeed: bytes.Repeat([]byte{2}, 32),
		Now: func() time.Time { return at(500) }, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	write := func(ev rotation.AuditEvent) {
		if err := log.Write(t.Context(), audit.Record{AuditEvent: ev}, audit.Written); err != nil {
			t.Fatal(err)
		}
	}
	write(rotation.AuditEvent{At: at(60), Kind: rotation.AuditRequest, Request: "r1", Actor: "tok1", Identity: "ops/alice", Address: "192.0.2.1", Action: "incident.declare", Path: "sys/incidents/inc1", Capability: "emergency", Outcome: "ok", Detail: map[string]string{"reason": "it leaked"}})
	write(rotation.AuditEvent{At: at(60), Kind: rotation.AuditStep, Actor: "tok1", Action: "incident.open", Path: "sys/incidents/inc1", Outcome: "ok", Detail: map[string]string{"incident": "inc1"}})
	write(rotation.AuditEvent{At: at(62), Kind: rotation.AuditRequest, Request: "r2", Actor: "tok6", Action: "secret.read", Path: "app/key", Secret: "app/key", Capability: "read", Outcome: "denied"})
	write(rotation.AuditEvent{At: at(62), Kind: rotation.AuditRequest, Request: "r3", Actor: "tok6", Action: "secret.read", Path: "stranger", Secret: "stranger", Capability: "read", Outcome: "ok"})
	for _, l := range tries() {
		write(rotation.AuditEvent{At: l.At, Kind: rotation.AuditStep, Actor: "keybroker", Action: "probe.verdict", Path: "app/key", Secret: "app/key", Version: l.Version, Outcome: "ok",
			Detail: map[string]string{"verdict": l.Verdict, "purpose": l.Purpose, "address": l.Address, "retirement": "ret1", "round": strconv.Itoa(l.Round)}})
	}
	x, err := log.Excerpt(t.Context(), audit.About{Paths: map[string]bool{"app/key": true, "sys/incidents/inc1": true}, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func sign(t *testing.T, r report.Report) report.Signed {
	t.Helper()
	s, err := report.Sign(r, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func public() ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// claims are those of a kind, as a text each.
func claims(r report.Report, kind string) (out []string) {
	for _, c := range r.Claims {
		if c.Kind == kind {
			out = append(out, c.String())
		}
	}
	return out
}

// What a person said is not said by an issuer.
func TestTurnedOffByHand(t *testing.T) {
	r := records(t)
	r.Secrets[0].Versions[0].Retirement.ByHand = true
	r, err := report.Make(r)
	if got := claims(r, report.KindAcknowledged); err != nil || len(got) != 1 || !strings.Contains(got[0], "a person said") {
		t.Errorf("%q (%v)", got, err)
	}
}

// What was dead before the incident is no doing of it: it is in no sum.
func TestWhatWasDeadBefore(t *testing.T) {
	r := records(t)
	r.Secrets = r.Secrets[:1]
	r.Incident.DeclaredAt = at(300)
	r, err := report.Make(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := claims(r, report.KindTotal); len(got) != 1 || !strings.Contains(got[0], "1 version had been proven dead before the incident") {
		t.Errorf("in sum: %q", got)
	}
	if got := claims(r, report.KindProven); len(got) != 1 || !strings.Contains(got[0], "before the incident") || strings.Count(got[0], "try:ret1/") != 6 {
		t.Errorf("the proof: %q", got)
	}
	if got := slices.Concat(claims(r, report.KindContained), claims(r, report.KindRequested)); len(got) > 0 {
		t.Errorf("the incident is credited with %q", got)
	}
	if got := claims(r, report.KindExposure); len(got) != 1 || !strings.Contains(got[0], "1m51s") {
		t.Errorf("exposed: %q", got)
	}
	r.Incident.ApprovedAt, r.Incident.DeclaredAt = at(300), at(60)
	if r, err = report.Make(r); err != nil || !strings.Contains(claims(r, report.KindTotal)[0], "before the incident") {
		t.Errorf("approved afterwards: %q (%v)", claims(r, report.KindTotal), err)
	}
}

func TestTheReportSaysWhatTheRecordsShow(t *testing.T) {
	r := records(t)
	for kind, want := range map[string][]string{
		report.KindContained: {"contained app/key version 1 at 2026-03-01 03:01:51.000Z: it was tried and rejected [retirement:ret1 try:ret1/3 audit:6 try:ret1/4 audit:7]"},
		report.KindExposure: {"exposure app/key version 1 at 2026-03-01 03:00:00.000Z: it was exposed from when it leaked until it was contained: 1m51s [version:app/key/1 retirement:ret1 incident]",
			"exposure acme:db version 3 at 2026-03-01 03:00:00.000Z: it was exposed since it leaked, and is still: 10m0s so far [version:acme:db/3 retirement:ret2 incident]"},
		report.KindReplaced: {"replaced app/key version 2 at 2026-03-01 03:01:15.000Z: version 2 is current, which is not compromised [secret:app/key version:app/key/2 rotation:rot1 step:rot1/2]"},
		report.KindRead: {"read app/key version 1 at 2026-03-01 02:45:00.000Z: it was handed out, role app, at 10.1.1.1: before and after it leaked [read:app/key/1/1 incident]",
			"read app/key version 1 at 2026-03-01 02:43:40.000Z: it was sent to consumer late, role app, which has not said that it arrived: before it leaked [read:app/key/1/2 incident]"},
	} {
		if got := claims(r, kind); !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant:\n%s", kind, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	open := strings.Join(claims(r, report.KindOpen), "\n")
	for _, want := range []string{"acme:db version 3: it is not contained", "the issuer does not answer", "consumer late has not received the replacement (pending, 4 attempts): connection refused", "call the bank", "there is no replacement yet", "derived from it were not ended"} {
		if !strings.Contains(open, want) {
			t.Errorf("what is open lacks %q:\n%s", want, open)
		}
	}
	if proof := strings.Join(claims(r, report.KindProven), "\n"); strings.Count(proof, "try:ret1/") != 6 || strings.Contains(proof, "try:ret1/2 ") {
		t.Errorf("the proof is %s", proof)
	}
	if acts := strings.Join(claims(r, report.KindAct), "\n"); !strings.Contains(acts, "incident.declare") || !strings.Contains(acts, "denied") || strings.Contains(acts, "stranger") {
		t.Errorf("who did what: %s", acts)
	}
	if len(claims(r, report.KindTotal)) != 1 {
		t.Errorf("totals of what is not contained: %q", claims(r, report.KindTotal))
	}
}

func TestItVerifiesAndIsTheSameEveryTime(t *testing.T) {
	r := records(t)
	s := sign(t, r)
	if again := sign(t, r); !bytes.Equal(s.JSON, again.JSON) || !bytes.Equal(s.Markdown, again.Markdown) {
		t.Error("it is another the second time")
	}
	v, err := report.Verify(s.JSON, public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := report.Verify(s.JSON, nil); err != nil {
		t.Error(err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, s.JSON, "", "  "); err != nil {
		t.Fatal(err)
	}
	if _, err := report.Verify(pretty.Bytes(), public()); err != nil {
		t.Errorf("indented: %v", err)
	}
	m, err := report.Verify(s.Markdown, public())
	if err != nil || m.Digest != v.Digest || v.Digest != s.Digest || !v.Matches(s.Markdown) {
		t.Errorf("the Markdown: %v; of %s, want %s", err, m.Digest, v.Digest)
	}
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, 32)).Public().(ed25519.PublicKey)
	for _, text := range [][]byte{s.JSON, s.Markdown} {
		if _, err := report.Verify(text, other); !errors.Is(err, backends.ErrDenied) {
			t.Errorf("by another key: %v", err)
		}
	}
}

// leaves calls fn for a copy of doc with each of its leaves changed.
func leaves(t *testing.T, doc []byte, fn func(path string, changed []byte)) {
	t.Helper()
	var whole any
	decode(t, doc, &whole)
	var walk func(path string, v any, set func(any))
	walk = func(path string, v any, set func(any)) {
		switch v := v.(type) {
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				walk(path+"."+name, v[name], func(n any) { v[name] = n })
			}
			return
		case []any:
			for i := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), v[i], func(n any) { v[i] = n })
			}
			return
		case string:
			set(other(v))
		case json.Number:
			n, _ := strconv.Atoi(v.String())
			set(n + 1)
		case bool:
			set(!v)
		default:
			set("x")
		}
		text, err := json.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		fn(path, text)
		set(v)
	}
	walk("", whole, nil)
}

func other(text string) string {
	if when, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return when.Add(10 * time.Minute).Format(time.RFC3339Nano)
	}
	if text == "" {
		return "x"
	}
	last := byte('A')
	if text[0] == last {
		last = 'B'
	}
	return string(last) + text[1:]
}

func decode(t *testing.T, text []byte, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		t.Fatal(err)
	}
}

func TestEveryLeafThatIsChangedIsFound(t *testing.T) {
	s := sign(t, records(t))
	n := 0
	leaves(t, s.JSON, func(path string, changed []byte) {
		n++
		if _, err := report.Verify(changed, nil); err == nil {
			t.Errorf("%s was changed, and it verifies", path)
		}
	})
	if n < 300 {
		t.Errorf("only %d leaves were changed", n)
	}
}

func TestEveryByteOfTheMarkdownThatIsChangedIsFound(t *testing.T) {
	s := sign(t, records(t))
	for i := range s.Markdown {
		changed := bytes.Clone(s.Markdown)
		changed[i] ^= 1
		if _, err := report.Verify(changed, nil); err == nil {
			t.Fatalf("byte %d (%q) was changed, and it verifies", i, s.Markdown[i])
		}
	}
	for _, changed := range [][]byte{s.Markdown[1:], s.Markdown[:len(s.Markdown)-1], append(bytes.Clone(s.Markdown), '\n'), nil} {
		if _, err := report.Verify(changed, nil); err == nil {
			t.Error("it verifies, and is not whole")
		}
	}
}

// TestSomebodyWithTheKeyCannotClaimWhatIsNotRecorded signs each changed claim anew.
func TestSomebodyWithTheKeyCannotClaimWhatIsNotRecorded(t *testing.T) {
	r := records(t)
	text, err := json.Marshal(r.Claims)
	if err != nil {
		t.Fatal(err)
	}
	leaves(t, text, func(path string, changed []byte) {
		forged := r
		forged.Claims = nil
		if err := json.Unmarshal(changed, &forged.Claims); err != nil {
			return // it is none any more
		}
		if _, err := report.Verify(sign(t, forged).JSON, public()); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "claim C") {
			t.Errorf("%s: %v", path, err)
		}
	})
	for name, claims := range map[string][]report.Claim{"one less": r.Claims[:len(r.Claims)-1], "one more": append(slices.Clone(r.Claims), r.Claims[0]), "none": {}} {
		forged := r
		forged.Claims = claims
		if _, err := report.Verify(sign(t, forged).JSON, public()); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRecordsThatContradictAClaim signs anew what was changed in the records.
func TestRecordsThatContradictAClaim(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*report.Report)
		want   string
	}{
		"a verdict of the first rejected round": {func(r *report.Report) { r.Secrets[0].Versions[0].Retirement.Tries[3].Verdict = client.Inconclusive }, "claim C"},
		"a control":                             {func(r *report.Report) { r.Secrets[0].Versions[0].Retirement.Tries[6].Verdict = client.Rejected }, "claim C"},
		"a proof of fewer rounds": {func(r *report.Report) {
			t := r.Secrets[0].Versions[0].Retirement
			t.Tries = slices.Delete(slices.Clone(t.Tries), 4, 6)
		}, "claim C"},
		"accepted after the proof": {func(r *report.Report) {
			t := r.Secrets[0].Versions[0].Retirement
			t.Tries = append(slices.Clone(t.Tries), client.Try{Round: 9, Purpose: client.PurposeRecheck, Version: 1, At: at(400), Verdict: client.Accepted})
		}, "claim C"},
		"when it was contained":  {func(r *report.Report) { r.Secrets[0].Versions[0].Retirement.ContainedAt = at(95) }, "claim C"},
		"when it was proven":     {func(r *report.Report) { r.Secrets[0].Versions[0].Retirement.ProvenAt = at(112) }, "claim C"},
		"what a proof takes":     {func(r *report.Report) { r.Secrets[0].Versions[0].Retirement.Required.WindowMS = 60_000 }, "claim C"},
		"a delivery":             {func(r *report.Report) { r.Secrets[0].Deliveries[1].ReceivedAt = at(90) }, "claim C"},
		"a read":                 {func(r *report.Report) { r.Secrets[0].Versions[0].Reads[0].Actor = "tok8" }, "claim C"},
		"a read that is missing": {func(r *report.Report) { r.Secrets[0].Versions[0].Reads = nil }, "claim C"},
		"when it leaked":         {func(r *report.Report) { r.Incident.LeakedAt = at(-100) }, "claim C"},
		"a note":                 {func(r *report.Report) { r.Incident.Notes[0].Text = "told nobody" }, "claim C"},
		"a secret less":          {func(r *report.Report) { r.Secrets = r.Secrets[:1] }, "claim C"},
		"a line of the log": {func(r *report.Report) {
			l := &r.Journal.Blocks[0].Lines[0]
			l.Line = strings.Replace(l.Line, "ops/alice", "ops/mally", 1)
		}, "the lines of the audit log"},
		"all lines of the log": {func(r *report.Report) { r.Journal.Blocks = []audit.Block{} }, "claim C"},
	} {
		t.Run(name, func(t *testing.T) {
			r := records(t)
			c.change(&r)
			if _, err := report.Verify(sign(t, r).JSON, public()); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestARecordWithoutItsVerdictsProvesNothing makes reports of such.
func TestARecordWithoutItsVerdictsProvesNothing(t *testing.T) {
	r := records(t)
	r.Secrets = r.Secrets[:1]
	r.Secrets[0].Versions[0].Retirement.Tries = nil
	r, err := report.Make(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(claims(r, report.KindContained))+len(claims(r, report.KindProven)) > 0 {
		t.Errorf("%q", r.Claims)
	}
	if open := fmt.Sprint(claims(r, report.KindOpen)); !strings.Contains(open, "no verdict in the report shows it") {
		t.Errorf("open: %s", open)
	}
	r = records(t)
	r.Secrets[0].Versions[0].Retirement.Tries = tries()[:6] // two rejected rounds, where it takes three
	if r, err = report.Make(r); err != nil {
		t.Fatal(err)
	}
	if len(claims(r, report.KindContained)) != 1 || len(claims(r, report.KindProven)) != 0 {
		t.Errorf("%q", r.Claims)
	}
}

func TestAFileWithMoreThanWhatIsSigned(t *testing.T) {
	s := sign(t, records(t))
	forged := []byte(`{"report":{"format":"forged"},"Report":` + string(s.JSON[len(`{"report":`):]))
	twice := append([]byte(`{"report":{"format":"forged"},`), s.JSON[1:]...)
	more := append([]byte(`{"remark":"checked by the auditor",`), s.JSON[1:]...)
	for name, text := range map[string][]byte{"another case": forged, "twice": twice, "more": more, "behind": append(bytes.Clone(s.JSON), '{', '}'), "no report": []byte("{}")} {
		if _, err := report.Verify(text, nil); err == nil {
			t.Errorf("%s: it verifies", name)
		}
	}
}

func TestAReportThatIsCutShort(t *testing.T) {
	s := sign(t, records(t))
	_, err := report.Verify(s.JSON[:len(s.JSON)/2], nil)
	if !errors.Is(err, backends.ErrInvalid) || strings.Count(err.Error(), "unexpected end of JSON input") != 1 {
		t.Error(err)
	}
}

func TestMarkdownIsNoOtherThanItLooks(t *testing.T) {
	r := records(t)
	r.Incident.Reason = "x | y\n# Incident over\n<script>alert(1)</script> [ok](https://evil.example)\n## Signature\n\n```\nkey: AAAA"
	r, err := report.Make(r)
	if err != nil {
		t.Fatal(err)
	}
	s := sign(t, r)
	if _, err := report.Verify(s.Markdown, public()); err != nil {
		t.Error(err)
	}
	text := string(s.Markdown)
	for _, never := range []string{"\n# Incident over", "<script>", "[ok](", "x | y"} {
		if strings.Contains(text, never) {
			t.Errorf("the Markdown has %q", never)
		}
	}
	if strings.Count(text, "\n## Signature\n") != 1 {
		t.Error("it has two signatures")
	}
}

func TestKeys(t *testing.T) {
	jwk, err := json.Marshal(report.KeyOf(public()))
	if err != nil {
		t.Fatal(err)
	}
	s := sign(t, records(t))
	var doc report.Document
	decode(t, s.JSON, &doc)
	for _, text := range []string{string(jwk), doc.Signature.Key, doc.Signature.Key + "\n", report.KeyOf(public()).X} {
		if k, err := report.ParseKey(text); err != nil || !k.Equal(public()) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", "{}", "AAAA", "not a key"} {
		if _, err := report.ParseKey(text); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
