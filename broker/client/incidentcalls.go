package client

import (
	"context"
	"iter"
)

// DeclareIncident declares an emergency of everything that is selected, or says with
// DryRun what would follow. Of the same ID it is the same incident.
func (c *Client) DeclareIncident(ctx context.Context, r IncidentRequest) (Incident, error) {
	return do[Incident](ctx, c, api("POST", "incidents").send(r))
}

// Incidents lists incidents, the latest first.
func (c *Client) Incidents(ctx context.Context, q IncidentQuery) (List[Incident], error) {
	return do[List[Incident]](ctx, c, api("GET", "incidents").with(q.values()))
}

// Incident returns one incident with all that is known of it.
func (c *Client) Incident(ctx context.Context, id string) (Incident, error) {
	return do[Incident](ctx, c, api("GET", "incidents", id))
}

// WatchIncident follows an incident until everything of it is proven dead, or it is
// closed or rejected, as WatchRotation follows a rotation. While it is proposed it is
// followed, too. Its events leave long lists out.
func (c *Client) WatchIncident(ctx context.Context, id string) iter.Seq2[Event, error] {
	return c.watch(ctx, api("GET", "incidents", id, "events"))
}

// ApproveIncident has a proposed incident done. Who proposed it may not.
func (c *Client) ApproveIncident(ctx context.Context, id string, r IncidentActRequest) (Incident, error) {
	return c.actOnIncident(ctx, id, "approve", r)
}

// RejectIncident refuses a proposed incident.
func (c *Client) RejectIncident(ctx context.Context, id string, r IncidentActRequest) (Incident, error) {
	return c.actOnIncident(ctx, id, "reject", r)
}

// CloseIncident says that people are done with it. What was begun goes on to its proof.
func (c *Client) CloseIncident(ctx context.Context, id string, r IncidentActRequest) (Incident, error) {
	return c.actOnIncident(ctx, id, "close", r)
}

// HoldIncident keeps what may be evidence from being pruned, or lets it be.
func (c *Client) HoldIncident(ctx context.Context, id string, r IncidentActRequest) (Incident, error) {
	return c.actOnIncident(ctx, id, "hold", r)
}

func (c *Client) actOnIncident(ctx context.Context, id, act string, r IncidentActRequest) (Incident, error) {
	return do[Incident](ctx, c, api("POST", "incidents", id, act).send(r))
}

// NoteIncident adds a note or an item of the checklist, or says that one is done.
func (c *Client) NoteIncident(ctx context.Context, id string, r IncidentNoteRequest) (Incident, error) {
	return do[Incident](ctx, c, api("POST", "incidents", id, "notes").send(r))
}
