package httpapi

import (
	"context"
	"net/http"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/ratelimit"
	"github.com/keybroker/keybroker/policy"
)

// Incidents are what a Broker serves of emergencies.
type Incidents interface {
	DeclareIncident(ctx context.Context, p authn.Principal, r client.IncidentRequest) (client.Incident, error)
	Incidents(ctx context.Context, p authn.Principal, q client.IncidentQuery) (client.List[client.Incident], error)
	Incident(ctx context.Context, p authn.Principal, id string) (client.Incident, error)
	// WatchIncident is as Broker.WatchRotation.
	WatchIncident(ctx context.Context, p authn.Principal, id string) (<-chan client.Event, error)
	ApproveIncident(ctx context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error)
	RejectIncident(ctx context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error)
	CloseIncident(ctx context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error)
	HoldIncident(ctx context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error)
	NoteIncident(ctx context.Context, p authn.Principal, id string, r client.IncidentNoteRequest) (client.Incident, error)
}

// maxReturned is how large a journal may be that is handed in: some 10,000 versions.
const maxReturned = 5 << 20

// onIncident is the Access by a capability on the incident that the path names.
func onIncident(c policy.Capability) Access { return node("incidents/{id}", c).hiding() }

// ofIncidents is what is asked of emergencies.
func ofIncidents() []Endpoint {
	const declarer = "or to have declared it"
	seeing := onIncident(policy.Read).also(declarer)
	return []Endpoint{
		get("incidents", node("incidents", policy.List).hiding().also("those that the caller declared are listed in any case"), "Lists emergencies, the latest first, and how far each is.", pages(incidentQuery, Broker.Incidents)),
		post("incidents", known.also("emergency on the secrets that are meant: others are left out. Of more than the configuration lets one person turn off somebody else has to approve; override skips that, by emergency on sys/incidents/override"),
			"Declares an emergency of the secrets that are meant, which turns off and replaces what is compromised of them, or tells with dry_run what it would be. Idempotent by its id.",
			does(http.StatusAccepted, Broker.DeclareIncident)).as(ratelimit.Containing),
		post("offline-returns", known.also("emergency on the secrets that were revoked: others are left out, as of a declaration"),
			"Takes the journal of what was revoked while the broker was down: an emergency of exactly those versions. Idempotent by its id.",
			does(http.StatusAccepted, Broker.ReturnOffline)).as(ratelimit.Containing).upTo(maxReturned),
		get("incidents/{id}", seeing, "Shows an emergency: its secrets, versions and consumers, what is stuck and why, notes and checklist.", shows("id", Broker.Incident)),
		get("incidents/{id}/report", seeing, "Gives the signed report of an emergency: as JSON with every record that its claims follow from, or as Markdown.", reportsIncident()),
		get("incidents/{id}/events", seeing, "Streams an emergency whenever its progress changes, until everything of it is proven dead.", watches(Broker.WatchIncident)),
		post("incidents/{id}/approve", onIncident(policy.Approve).also("emergency on each of its secrets; not who declared it"), "Approves an emergency that waits for a second person: it begins.",
			takes(http.StatusOK, "id", Broker.ApproveIncident)).as(ratelimit.Containing),
		post("incidents/{id}/reject", onIncident(policy.Approve), "Refuses an emergency that waits for a second person.", takes(http.StatusOK, "id", Broker.RejectIncident)),
		post("incidents/{id}/close", onIncident(policy.Update), "Says that people are done with an emergency. What it has begun goes on to its proof.", takes(http.StatusOK, "id", Broker.CloseIncident)),
		post("incidents/{id}/hold", onIncident(policy.Update), "Keeps what may be evidence from being pruned, or lets it be.", takes(http.StatusOK, "id", Broker.HoldIncident)),
		post("incidents/{id}/notes", onIncident(policy.Update), "Adds a note, or an item of the checklist, or has one done.", takes(http.StatusOK, "id", Broker.NoteIncident)),
	}
}

func incidentQuery(p *params) client.IncidentQuery {
	return client.IncidentQuery{State: p.oneOf("state", client.IncidentStates...), Secret: p.text("secret"), Page: page(p)}
}
