package vaultserver

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
)

// process is a running core. It ends when its standard input is closed, by kill
// or by our own end.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	ended sync.Once
}

// begin starts the core and returns the addresses that its nodes listen on.
func begin(binary string, args []string) (*process, []string, error) {
	cmd := exec.Command(binary, args...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	p := &process{cmd: cmd, stdin: stdin}
	var hello struct {
		Addresses []string `json:"addresses"`
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &hello)
	}
	if err == nil && len(hello.Addresses) == 0 {
		err = errors.New("there is none")
	}
	if err != nil {
		p.kill()
		return nil, nil, fmt.Errorf("reading the core's address: %w", err)
	}
	return p, hello.Addresses, nil
}

// kill ends the process at once and waits for it; calling it again does nothing.
func (p *process) kill() {
	p.ended.Do(func() {
		_ = p.cmd.Process.Kill() // before its input, whose end it would take for a request to stop
		_ = p.stdin.Close()
		_ = p.cmd.Wait()
	})
}
