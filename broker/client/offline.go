package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// OfflineReturn tells the broker what was revoked while it was down.
type OfflineReturn struct {
	// ID is a UUID that follows from the journal: the same journal is the same incident.
	ID           string           `json:"id"`
	Installation string           `json:"installation"` // that the kit was of
	Reason       string           `json:"reason"`
	By           string           `json:"by,omitempty"`         // who revoked, as the journal has it
	Host         string           `json:"host,omitempty"`       // where
	KitMadeAt    time.Time        `json:"kit_made_at,omitzero"` // of the oldest kit that was used
	From         time.Time        `json:"from,omitzero"`        // of the first and the last line of the journal
	To           time.Time        `json:"to,omitzero"`
	Versions     []OfflineVersion `json:"versions"`
	Override     bool             `json:"override,omitempty"` // do not wait for a second person
}

// OfflineVersion is a version that somebody wanted revoked.
type OfflineVersion struct {
	Secret  string    `json:"secret"` // TENANT:NAME, or NAME
	Version int       `json:"version"`
	Last    int       `json:"last,omitempty"` // the newest version that the kit knew of
	At      time.Time `json:"at,omitzero"`
	Result  string    `json:"result,omitempty"` // "revoked", "open", "by_hand", "on_return"; empty: nobody heard
	Error   string    `json:"error,omitempty"`
}

// OfflineReturn hands a journal in: an incident of its versions, which revokes them again,
// proves them dead and replaces them.
func (c *Client) OfflineReturn(ctx context.Context, r OfflineReturn) (Incident, error) {
	return do[Incident](ctx, c, api("POST", "offline-returns").send(r))
}

// OfflineKit writes the encrypted file to w that contains when the broker is down. It is
// whole if there is no error.
func (c *Client) OfflineKit(ctx context.Context, w io.Writer) error {
	resp, err := c.open(ctx, api("GET", "offline-kit"))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(w, resp.Body)
	if err == nil && resp.ContentLength >= 0 && n != resp.ContentLength {
		err = errors.New("it was cut off")
	}
	if err != nil {
		return fmt.Errorf("reading the offline kit: %w", err)
	}
	return nil
}
