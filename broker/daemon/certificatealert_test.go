package daemon_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/daemon"
)

// TestCertificateIsToldInTime: two weeks before its end, or in the last third of one
// that lives for less.
func TestCertificateIsToldInTime(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		lives, left time.Duration
		told        bool
	}{
		{90 * day, 15 * day, false}, {90 * day, 13 * day, true}, {90 * day, -day, true},
		{day, 9 * time.Hour, false}, {day, 7 * time.Hour, true},
	} {
		told, text := daemon.CertificateTrouble(tt.lives, tt.left)
		if told != tt.told || told != (text != "") {
			t.Errorf("%s left of %s: %t, %q", tt.left, tt.lives, told, text)
		}
	}
}
