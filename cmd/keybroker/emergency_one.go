package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// ofOne declares the emergency of one secret, and shows the rotation that replaces it.
func (e *emergency) ofOne(ctx context.Context, a *app, c *client.Client, name string) error {
	s, known := a.preview(ctx, c, name)
	r, err := c.Emergency(ctx, name, client.EmergencyRequest{
		Reason: e.request.Reason, Versions: e.request.Selector.Versions, Contain: e.request.Contain, Overwrite: e.request.Overwrite,
	})
	if err != nil {
		return err
	}
	a.note("%s", printable(announcement(r, s, known)))
	if r.IncidentID != "" {
		a.note("incident %s: keybroker incident show %s", r.IncidentID, r.IncidentID)
	}
	if !e.wait {
		return a.rotationBegun(ctx, c, r, false)
	}
	following, stop := e.patience(ctx)
	defer stop()
	err = a.rotationBegun(following, c, r, true)
	if following.Err() == nil && r.FromVersion > 0 {
		a.tellWhoIsWithout(ctx, c, r)
	}
	return a.endOfOne(following, c, r, err)
}

// endOfOne follows the incident of an emergency to its end where the rotation has ended
// before, and tells by the exit code how far it is: the rotation alone does not.
func (a *app) endOfOne(ctx context.Context, c *client.Client, r client.Rotation, err error) error {
	gone := ctx.Err() != nil
	if _, unseen := errors.AsType[*unfollowed](err); unseen && !gone || r.IncidentID == "" {
		return err
	}
	i, asked := a.lastLook(ctx, c, r.IncidentID)
	switch {
	case err == nil && asked == nil && standingOf(i) == exitDone:
		return nil
	case err == nil && asked == nil:
		return a.watchIncident(ctx, c, i.ID, untilProven) // its issuer said yes, and that is no proof; or more was turned off than this
	case asked != nil:
		a.note("how far it is could not be asked (%s); it counts as open", printable(asked.Error()))
		i.State, i.Progress.Pending = client.IncidentOpen, 1
	}
	if standingOf(i) == exitDone {
		return err // the keys are dead, and something else went wrong
	}
	if !gone && err != nil {
		a.complain(err)
	}
	if asked == nil && i.Progress.Settled() {
		return a.endOfWatch(i, untilProven, false)
	}
	a.note("incident %s is %s; pick it up with: keybroker incident watch %s", r.IncidentID, inAWord(i), r.IncidentID)
	return leaving(i)
}

// lastLook asks once more how far an incident is, also after ^C.
func (a *app) lastLook(ctx context.Context, c *client.Client, id string) (client.Incident, error) {
	const patience = 3 * time.Second
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return c.Incident(ctx, id)
}

// announcement says what an emergency hits, as the server has decided it.
func announcement(r client.Rotation, s client.Secret, known bool) string {
	var pinned []string
	for _, n := range r.Compromised {
		pinned = append(pinned, strconv.Itoa(n))
	}
	which := "every version that may be alive"
	switch len(pinned) {
	case 0:
	case 1:
		which = "version " + pinned[0]
	default:
		which = "versions " + strings.Join(pinned, ", ")
	}
	if r.State == client.RotationDone {
		return fmt.Sprintf("%s: NOTHING NEW: the emergency of %s is done; version %d, its replacement, counts as clean for a minute and is NOT turned off.\n"+
			"If it is compromised too: keybroker emergency %s --version %d --reason TEXT", r.Secret, relative(r.StartedAt, time.Now()), r.ToVersion, r.Secret, r.ToVersion)
	}
	text := fmt.Sprintf("%s: %s: revoked and proven dead, whatever else happens", r.Secret, which)
	if r.FromVersion > 0 {
		text += "; a replacement is made beside it"
		if known && len(s.Consumers) > 0 {
			text += ", of which are told: " + strings.Join(s.Consumers, ", ")
		}
	}
	return text
}

// without are the consumers of a secret that do not use what replaces a compromised
// version, as far as is known.
type without struct {
	Event       string   `json:"event"` // "consumers", in the place of client.Event's
	Secret      string   `json:"secret"`
	Version     int      `json:"version"` // the current one
	NotReceived []string `json:"not_received"`
	NotApplied  []string `json:"not_applied"` // they have it, and do not say that they use it
}

func consumersWithout(s client.SecretConsumers, compromised int) without {
	w := without{Event: "consumers", Secret: qualified(s.Tenant, s.Secret), Version: s.Version, NotReceived: []string{}, NotApplied: []string{}}
	for _, c := range s.Consumers {
		switch told := c.Version == s.Version && c.Version != compromised; {
		case !c.Listed || told && !c.AppliedAt.IsZero():
		case told && (!c.ReceivedAt.IsZero() || !c.FetchedAt.IsZero()):
			w.NotApplied = append(w.NotApplied, c.Consumer)
		default:
			w.NotReceived = append(w.NotReceived, c.Consumer)
		}
	}
	return w
}

// tellWhoIsWithout ends an emergency with who may sit on a key that is dead by now. It is
// no failure of the emergency, nor is that it cannot be told.
func (a *app) tellWhoIsWithout(ctx context.Context, c *client.Client, r client.Rotation) {
	name := qualified(r.Tenant, r.Secret)
	command := "keybroker secret consumers " + name
	s, err := c.SecretConsumers(ctx, name)
	if err != nil {
		a.note("which consumers have the replacement could not be asked (%s): %s", printable(err.Error()), command)
		return
	}
	w := consumersWithout(s, r.FromVersion)
	if a.json() {
		_ = json.NewEncoder(a.out).Encode(w) // what came of the emergency counts
		return
	}
	if len(w.NotReceived) > 0 {
		a.note("WITHOUT the replacement: %s", printable(strings.Join(w.NotReceived, ", ")))
	}
	if len(w.NotApplied) > 0 {
		a.note("have version %d, and did not say that they use it: %s", w.Version, printable(strings.Join(w.NotApplied, ", ")))
	}
	if len(w.NotReceived)+len(w.NotApplied) > 0 {
		a.note("see: %s", command)
	}
}
