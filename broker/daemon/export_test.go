package daemon

import "io"

// Replaced gives retire, which takes a setup out of use that closed is told the
// end of, and end, which ends all reloads.
func Replaced() (retire func(closed func()), end func()) {
	d := &Daemon{reloading: make(chan struct{}, 1), stopped: make(chan struct{})}
	return func(closed func()) { d.retire(&setup{closers: []io.Closer{closeFunc(closed)}}) }, d.endReloads
}

// CloseAfter is how long a replaced setup stays usable.
const CloseAfter = closeAfter
