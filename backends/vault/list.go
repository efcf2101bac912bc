package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// list is List of what is below a path.
//
// Vault lists one folder at a time, so that a page costs one request per folder
// that it touches.
func (e *engine) list(ctx context.Context, path, after string, limit int) ([]string, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("%w: the limit must be positive", backends.ErrInvalid)
	}
	w := walk{engine: e, path: path, after: after, limit: limit + 1} // one more tells whether there is a next page
	if err := w.folder(ctx, ""); err != nil {
		return nil, "", err
	}
	if len(w.names) <= limit {
		return w.names, "", nil
	}
	return w.names[:limit], w.names[limit-1], nil
}

// walk collects the names after one, in byte order, up to a limit.
type walk struct {
	engine *engine
	path   string
	after  string
	limit  int
	names  []string
}

// folder walks what is below dir, which is empty or ends in a slash.
//
// A folder's key ends in a slash, so that sorted keys, each folder walked where
// its key stands, give whole names in byte order.
func (w *walk) folder(ctx context.Context, dir string) error {
	keys, err := w.keys(ctx, dir)
	if err != nil {
		return err
	}
	slices.Sort(keys)
	for _, key := range keys {
		if len(w.names) == w.limit {
			return nil
		}
		name := dir + key
		if strings.HasSuffix(key, "/") {
			if name < w.after && !strings.HasPrefix(w.after, name) {
				continue
			}
			if err := w.folder(ctx, name); err != nil {
				return err
			}
		} else if name > w.after && backends.ParseName(name) == nil {
			w.names = append(w.names, name)
		}
	}
	return nil
}

func (w *walk) keys(ctx context.Context, dir string) ([]string, error) {
	secret, err := w.engine.conn.List(ctx, w.path+dir)
	err = w.engine.believed(ctx, err, w.engine.glance)
	if errors.Is(err, backends.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var answer struct {
		Keys []string `json:"keys"`
	}
	err = decode(secret.Data, &answer)
	return answer.Keys, err
}
