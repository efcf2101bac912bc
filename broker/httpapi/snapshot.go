package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
)

// Storage is what of a Broker serves its state as a whole.
type Storage interface {
	// Snapshot copies the state; the API writes it out and closes it.
	Snapshot(ctx context.Context, p authn.Principal) (*store.Snapshot, error)
	Storage(ctx context.Context, p authn.Principal) (client.Storage, error)
}

// snapshots serves the state as one file.
func snapshots() Endpoint {
	return Endpoint{Status: http.StatusOK, Media: snapshotType, serve: (*server).snapshot}
}

// snapshotWithin is how long a snapshot may take, copying and reading: its copy takes
// room on the disk as long, and nobody else gets one.
const snapshotWithin = time.Hour

// snapshot streams a snapshot. Its length is told first, so that whoever reads it
// knows when it was cut off. To HEAD it tells that the caller would be given one, and
// makes none.
func (s *server) snapshot(w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
	if err := bare(r, &struct{}{}); err != nil {
		return err
	}
	h := w.Header()
	if r.Method == http.MethodHead {
		if _, err := s.Broker.Storage(r.Context(), caller); err != nil {
			return err
		}
		h.Set("Content-Type", snapshotType)
		w.WriteHeader(http.StatusOK)
		return nil
	}
	until := s.now().Add(s.SnapshotWithin)
	ctx, cancel := context.WithDeadline(r.Context(), until)
	defer cancel()
	snap, err := s.Broker.Snapshot(ctx, caller)
	if err != nil {
		return err
	}
	defer func() { _ = snap.Close() }() // it was only read
	h.Set("Content-Type", snapshotType)
	h.Set("Content-Disposition", `attachment; filename="keybroker-`+snap.At.UTC().Format("20060102T150405Z")+`.snapshot"`)
	h.Set("Content-Length", strconv.FormatInt(snap.Length(), 10))
	w.WriteHeader(http.StatusOK)
	out := patient{w: w, conn: http.NewResponseController(w), now: s.now, until: until}
	if _, err := snap.WriteTo(out); err != nil {
		s.Logger.Warn("a snapshot was cut off", "request_id", requestID(w), "error", err)
		panic(http.ErrAbortHandler) // the connection must not look as if it went on
	}
	_ = out.conn.SetWriteDeadline(time.Time{})
	return nil
}

const snapshotType = "application/octet-stream"

// patient gives every write a deadline of its own, and all of them one.
type patient struct {
	w     http.ResponseWriter
	conn  *http.ResponseController
	now   func() time.Time
	until time.Time
}

func (p patient) Write(b []byte) (int, error) {
	deadline := p.now().Add(writeWithin)
	if p.until.Before(deadline) {
		deadline = p.until
	}
	_ = p.conn.SetReadDeadline(time.Time{}) // not every connection takes deadlines
	_ = p.conn.SetWriteDeadline(deadline)
	return p.w.Write(b)
}
