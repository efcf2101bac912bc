//go:build !linux

package program

import "os/exec"

// end waits for the program, and ends whom it has started and left behind.
func end(cmd *exec.Cmd) error {
	defer killGroup(cmd)
	return cmd.Wait()
}
