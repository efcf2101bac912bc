//go:build linux || darwin

package daemon

import (
	"fmt"
	"syscall"
)

// diskFree is how many bytes the broker can still write where dir is.
func diskFree(dir string) (uint64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("looking at the disk: %w", err)
	}
	return uint64(s.Bavail) * uint64(s.Bsize), nil
}
