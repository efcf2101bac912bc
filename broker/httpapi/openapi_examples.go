package httpapi

import (
	"reflect"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// bodyExamples are what requests look like, by the type of their body. They show the
// form of what types do not tell, such as durations; a test holds that every type has
// one.
var bodyExamples = examplesOf(
	client.RotateRequest{Reason: "quarterly", IgnoreWindow: true},
	client.SupplyRequest{Fields: client.Fields{"key": "sk_live_0123456789"}, Handle: map[string]string{"id": "key_123"}, NotAfter: time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC), Reason: "made in the portal"},
	client.CheckIssuerRequest{Secret: "payments/stripe"},
	client.RunProbeRequest{Secret: "payments/stripe", Version: 3, Reason: "is it dead?"},
	client.IdentifyRequest{Value: "DATABASE_URL=postgres://shop:Zm9vYmFy@db.example.com/shop", Probe: true},
	client.ConfigPlanRequest{
		Secrets: []client.PlannedSecret{{Name: "payments/stripe", Tenant: "default", Definition: []byte(`{"backend": "prod", "issuer": "stripe"}`)}},
		Blocks:  []client.PlannedBlock{{Kind: "backend", Name: "prod", Type: "vault", Digest: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}},
		Node:    map[string]string{"listener.address": "0.0.0.0:8400"}},
	client.RevokeRequest{Version: 3, Reason: "nobody uses it any more"},
	client.EmergencyRequest{Reason: "found in a public repository", Contain: client.RevokeFirst, Versions: []int{3}},
	client.IncidentRequest{ID: "7d43aa6d-a89c-4425-a75e-dfdf5365ba5b", Reason: "found in a public repository", Contain: client.RevokeFirst,
		LeakedAt: time.Date(2026, 1, 31, 2, 0, 0, 0, time.UTC), DetectedAt: time.Date(2026, 1, 31, 3, 0, 0, 0, time.UTC),
		Selector:   client.Selector{Patterns: []string{"payments/*"}, Labels: map[string]string{"team": "payments"}, Value: "sk_live_0123456789"},
		Quarantine: client.QuarantineNames{Consumers: []string{"shop"}}, DryRun: true},
	client.OfflineReturn{ID: "7d43aa6d-a89c-5425-a75e-dfdf5365ba5b", Installation: "0123456789abcdef", Reason: "found in a public repository", By: "ana", Host: "laptop",
		KitMadeAt: time.Date(2026, 1, 31, 2, 0, 0, 0, time.UTC), From: time.Date(2026, 1, 31, 3, 0, 0, 0, time.UTC), To: time.Date(2026, 1, 31, 3, 1, 0, 0, time.UTC),
		Versions: []client.OfflineVersion{{Secret: "default:payments/stripe", Version: 3, Last: 3, At: time.Date(2026, 1, 31, 3, 1, 0, 0, time.UTC), Result: "revoked"}}},
	client.IncidentActRequest{Reason: "I have talked to the bank"},
	client.IncidentNoteRequest{Text: "the bank has blocked the account", Done: 1},
	client.PauseRequest{Reason: "change freeze until Monday"},
	client.RepairRequest{Reason: "the vault was restored from a backup", DryRun: true},
	client.ImportRequest{Handle: map[string]string{"id": "key_123"}, InterventionRequest: client.InterventionRequest{Reason: "taken over from a script", DryRun: true}},
	client.CheckDriftRequest{Reason: "an administrator was in the vault"},
	client.DriftRequest{Backend: "aws-eu", InterventionRequest: client.InterventionRequest{Reason: "it was changed by hand"}},
	client.InterventionRequest{Reason: "CHG-1234", DryRun: true},
	client.AcknowledgeRequest{Status: client.AckApplied, Generation: 7, Instance: "shop-1", Fingerprint: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
	client.ConsumerRequest{Reason: "after the move to another cluster"},
	client.RotateSigningRequest{Overlap: "24h", Reason: "yearly"},
	client.QuarantineRequest{Kind: client.QuarantineConsumer, Name: "shop", InterventionRequest: client.InterventionRequest{Reason: "it was broken into", DryRun: true}},
	client.EventRequest{ID: "scan-2026-01-31-17", Secret: "payments/stripe", Reason: "found in a public repository"},
	client.ApplyEventRequest{Reason: "the findings are real"},
	client.LoginRequest{Role: "on-call", JWT: "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"},
	client.CreateTokenRequest{Name: "shop", Role: "shop-app", TTL: "24h", MaxTTL: "720h", Idle: "8h", CIDRs: []string{"10.0.0.0/8"}},
	client.AuditHashRequest{Text: "the text that is looked for"},
	client.AcknowledgeAlertRequest{Reason: "it is being looked into"},

	client.ReloadRequest{DryRun: true},
	client.SealRotateRequest{Reason: "yearly"},
	client.SealVerifyRequest{After: "AAAAAAAAAAE"},
	client.KeyCheckRequest{Key: "kb_live_0123456789"},
)

func examplesOf(bodies ...any) map[reflect.Type]any {
	m := map[reflect.Type]any{}
	for _, b := range bodies {
		m[reflect.TypeOf(b)] = b
	}
	return m
}
