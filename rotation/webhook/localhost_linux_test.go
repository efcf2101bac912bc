package webhook_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keybroker/keybroker/backends"
)

const hostsFile = "KEYBROKER_TEST_HOSTS"

// TestLocalhostElsewhere: in a hosts file that says so, "localhost" is another machine. A
// plain payload over http does not follow it there.
func TestLocalhostElsewhere(t *testing.T) {
	if hosts := os.Getenv(hostsFile); hosts != "" {
		if err := syscall.Mount(hosts, "/etc/hosts", "", syscall.MS_BIND, ""); err != nil {
			t.Skip("the hosts file cannot be replaced here: ", err)
		}
		o := send(t, private("http://LocalHost:1/"+canary))
		if !errors.Is(o.Err, backends.ErrDenied) || !strings.Contains(o.Err.Error(), "connecting to 203.0.113.7 is refused") || strings.Contains(o.Err.Error(), canary) {
			t.Errorf("got %+v", o)
		}
		return
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("203.0.113.7 localhost\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestLocalhostElsewhere$", "-test.v")
	child.Env = append(os.Environ(), hostsFile+"="+hosts)
	child.SysProcAttr = &syscall.SysProcAttr{ // root of a namespace of its own, where a file can be put over another
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	said, err := child.CombinedOutput()
	if _, ran := errors.AsType[*exec.ExitError](err); err != nil && !ran {
		t.Skip("namespaces of users are not allowed here: ", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, said)
	} else if strings.Contains(string(said), "SKIP") {
		t.Skipf("%s", said)
	}
}
