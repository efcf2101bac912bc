//go:build !unix

package program

import "os/exec"

// Without process groups only the program itself is killed.
func inGroup(*exec.Cmd) {}

func killGroup(*exec.Cmd) {}
