package awsparams

import "time"

// SetNow gives d another clock. No call may be under way.
func (d *Driver) SetNow(now func() time.Time) { d.now = now }
