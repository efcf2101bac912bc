package program

import (
	"os/exec"
	"syscall"
)

// ofProcess is P_PID of waitid(2).
const ofProcess = 1

// end waits for the program, and ends whom it has started and left behind before it is
// buried: until then the group's number, which is its own, is given to nobody else.
func end(cmd *exec.Cmd) error {
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, ofProcess, uintptr(cmd.Process.Pid), 0, syscall.WEXITED|syscall.WNOWAIT, 0, 0)
		if errno != syscall.EINTR {
			break
		}
	}
	killGroup(cmd)
	return cmd.Wait()
}
