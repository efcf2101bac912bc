//go:build crashpoints

package daemon

// What the tests of the crash points wrap.
var (
	CrashIssuer = crashIssuer
	CrashProbe  = crashProbe
	CrashMount  = crashMount
)
