//go:build !crashpoints

package daemon

import "github.com/keybroker/keybroker/rotation/engine"

// Without the tag crashpoints there are none: see crash.go.
func crashStore(s engine.Store) engine.Store { return s }

func crashCatalog(c *engine.Catalog) *engine.Catalog { return c }
