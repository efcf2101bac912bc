package vault

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
)

const (
	noteTimeout = 2 * time.Second // for a note, on top of its write's own time
	noteRefused = time.Hour       // without notes at a path where one was refused
)

// notes remembers where notes are refused.
type notes struct {
	mu      sync.Mutex
	refused map[string]time.Time // path → since when
}

func (n *notes) refusedAt(path string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	since, ok := n.refused[path]
	if ok && now.Sub(since) >= noteRefused {
		delete(n.refused, path)
		return false
	}
	return ok
}

func (n *notes) refuse(path string, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refused == nil {
		n.refused = map[string]time.Time{}
	}
	n.refused[path] = now
}

// annotate notes in the custom metadata what the new version is to keybroker; see v2
// for why it may fail. The write is over and its caller may have left, so that this
// has a time of its own.
func (d *v2) annotate(ctx context.Context, ref backends.Ref, version int, w backends.Write) {
	path := d.path("metadata", ref)
	if d.notes.refusedAt(path, d.now()) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	err := d.conn.Patch(ctx, path, map[string]any{
		"custom_metadata": map[string]any{
			noteOf:         strconv.Itoa(version),
			noteVersion:    strconv.Itoa(w.Version),
			noteGeneration: strconv.FormatInt(w.Generation, 10),
		},
	})
	switch {
	case err == nil:
	case errors.Is(err, backends.ErrDenied) || errors.Is(err, backends.ErrUnsupported):
		d.notes.refuse(path, d.now())
		d.logger.Info("custom metadata is left out for an hour; to have it, grant patch on this path", "path", path, "error", err)
	default: // this write's, such as 64 keys that are others'
		d.logger.Debug("custom metadata not written", "secret", ref.String(), "error", err)
	}
}
