//go:build !linux && !darwin

package daemon

import "github.com/keybroker/keybroker/backends"

// diskFree is not known here.
func diskFree(string) (uint64, error) { return 0, backends.ErrUnsupported }
