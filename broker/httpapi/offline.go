package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// Offline is what a Broker serves for the time in which it is down.
type Offline interface {
	MakeOfflineKit(ctx context.Context, p authn.Principal) ([]byte, error)
	ReturnOffline(ctx context.Context, p authn.Principal, r client.OfflineReturn) (client.Incident, error)
}

// kitWithin is how long a kit may take, making and reading it.
const kitWithin = 10 * time.Minute

// offlineKits serves the file that contains when the broker is down.
func offlineKits() Endpoint {
	return Endpoint{Status: http.StatusOK, Media: snapshotType, serve: func(s *server, w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
		if err := bare(r, &struct{}{}); err != nil {
			return err
		}
		until := s.now().Add(kitWithin)
		ctx, cancel := context.WithDeadline(r.Context(), until)
		defer cancel()
		kit, err := s.Broker.MakeOfflineKit(ctx, caller)
		if err != nil {
			return err
		}
		h := w.Header()
		h.Set("Content-Type", snapshotType)
		h.Set("Content-Disposition", `attachment; filename="keybroker.kit"`)
		h.Set("Content-Length", strconv.Itoa(len(kit)))
		w.WriteHeader(http.StatusOK)
		out := patient{w: w, conn: http.NewResponseController(w), now: s.now, until: until}
		_, _ = out.Write(kit) // who is gone needs no answer; its length tells who was cut off
		_ = out.conn.SetWriteDeadline(time.Time{})
		return nil
	}}
}
