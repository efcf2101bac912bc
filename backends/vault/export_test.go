package vault

import "time"

// SetNow sets the driver's clock.
func (d *Driver) SetNow(now func() time.Time) { d.engine.now = now }
