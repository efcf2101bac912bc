package execprobe_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/execprobe"
	"github.com/keybroker/keybroker/rotation/probe/probetest"
	"github.com/keybroker/keybroker/rotation/program"
)

const token = "canary-probe-token"

// store is a directory of the example's program, with keys in it.
type store struct {
	t    *testing.T
	path string
}

func newStore(t *testing.T, keys ...string) store {
	t.Helper()
	s := store{t, filepath.Join(t.TempDir(), "store")}
	if err := os.Mkdir(s.path, 0o700); err != nil {
		t.Fatal(err)
	}
	s.hold(keys...)
	return s
}

func (s store) hold(keys ...string) {
	s.t.Helper()
	entries := map[string]any{}
	for _, key := range keys {
		sum := sha256.Sum256([]byte(key))
		entries["key_"+hex.EncodeToString(sum[:4])] = map[string]string{"owner": "acme:app/one", "tag": "kb-1", "sha256": hex.EncodeToString(sum[:])}
	}
	text, err := json.Marshal(entries)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.path, "keys.json"), text, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s store) config() execprobe.Config {
	s.t.Helper()
	script, err := filepath.Abs("../../../examples/issuers/exec/keystore.py")
	if err != nil {
		s.t.Fatal(err)
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		s.t.Fatal(err)
	}
	return execprobe.Config{Program: program.Config{Command: python, Args: []string{"-I", "-S", script, s.path},
		SecretEnv: map[string]backends.SecretString{"KEYSTORE_TOKEN": token}}}
}

func open(t *testing.T, cfg execprobe.Config) *execprobe.Probe {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	return execprobe.New(cfg)
}

func key(text string) backends.Value { return backends.NewValue(map[string]string{"key": text}) }

func TestConformance(t *testing.T) {
	probetest.Run(t, func(t *testing.T) probetest.Harness {
		s := newStore(t, "canary-good-key")
		cfg := s.config()
		cfg.LockoutAfter = 7
		missing := cfg
		missing.Program.Command = "/no/such/program"
		var locked *os.File
		return probetest.Harness{
			Probe:        open(t, cfg),
			Subject:      probe.Subject{Ref: backends.Ref{Tenant: "acme", Name: "app/one"}},
			Good:         key("canary-good-key"),
			Bad:          key("canary-bad-key"),
			Rejected:     map[string]backends.Value{"of nobody": key("x")},
			Undecided:    map[string]backends.Value{"empty": key(""), "another field": backends.NewValue(map[string]string{"token": "canary-good-key"})},
			LockoutAfter: 7,
			Revoke:       func() { s.hold() },
			Faults: map[string]func(bool){
				"the store is away": func(on bool) { s.move(on) },
				"the store is spoilt": func(on bool) {
					if s.hold("canary-good-key"); on {
						if err := os.WriteFile(filepath.Join(s.path, "keys.json"), []byte("{"), 0o600); err != nil {
							t.Fatal(err)
						}
					}
				},
			},
			Hang: func(on bool) {
				if !on {
					_ = locked.Close()
					return
				}
				f, err := os.OpenFile(filepath.Join(s.path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
				if err == nil {
					err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
				}
				if err != nil {
					t.Fatal(err)
				}
				locked = f
			},
			Broken:    map[string]probe.Probe{"no program": open(t, missing)},
			Addresses: []string{execprobe.Here},
			Secrets:   []string{token},
		}
	})
}

func (s store) move(away bool) {
	from, to := s.path, s.path+".away"
	if !away {
		from, to = to, from
	}
	if err := os.Rename(from, to); err != nil {
		s.t.Fatal(err)
	}
}

// shell is a probe whose program is a few words of sh.
func shell(t *testing.T, script, endpoint string) *execprobe.Probe {
	t.Helper()
	return open(t, execprobe.Config{Endpoint: endpoint, Program: program.Config{
		Command: "/bin/sh", Args: []string{"-c", script}, SecretEnv: map[string]backends.SecretString{"TOKEN": token}}})
}

// Only the two words of the protocol are verdicts, and no secret is in a detail.
func TestVerdicts(t *testing.T) {
	for script, want := range map[string]probe.Verdict{
		`echo '{"protocol":1,"verdict":"accepted","detail":"fine"}'`:            probe.Accepted,
		`echo '{"protocol":1,"verdict":"rejected"}'`:                            probe.Rejected,
		`echo '{"protocol":1,"verdict":"inconclusive","detail":"locked"}'`:      probe.Inconclusive,
		`echo '{"protocol":1,"verdict":"Rejected"}'`:                            probe.Inconclusive,
		`echo '{"protocol":1,"verdict":""}'`:                                    probe.Inconclusive,
		`echo '{"protocol":1}'`:                                                 probe.Inconclusive,
		`echo '{"protocol":1,"verdict":"rejected"}'; exit 1`:                    probe.Inconclusive,
		`echo '{"protocol":1,"verdict":"rejected","error":{"class":"denied"}}'`: probe.Inconclusive,
		`echo '{"protocol":1,"verdict":"rejected"}{"protocol":1}'`:              probe.Inconclusive,
		`exit 77`: probe.Inconclusive,
		`printf '{"protocol":1,"verdict":"rejected","detail":"not %s"}' "$TOKEN"`:       probe.Rejected,
		`echo '{"protocol":1,"verdict":"rejected","detail":"canary-tried is unknown"}'`: probe.Rejected,
	} {
		r := shell(t, script, "").Try(t.Context(), probe.Try{Value: key("canary-tried")})
		if r.Verdict != want || r.Detail == "" || strings.Contains(r.Detail, "canary") {
			t.Errorf("%s: got %+v", script, r)
		}
	}
}

// With an endpoint the program is told which address, and must have tried that one.
func TestEndpoint(t *testing.T) {
	const says = `printf '{"protocol":1,"verdict":"rejected","address":"%s"}' `
	for script, want := range map[string]probe.Verdict{
		says + `127.0.0.1:587`:                       probe.Rejected,
		says + `127.0.0.2:587`:                       probe.Inconclusive,
		says + `127.0.0.1:25`:                        probe.Inconclusive,
		says + `localhost:587`:                       probe.Inconclusive,
		`echo '{"protocol":1,"verdict":"rejected"}'`: probe.Inconclusive,
	} {
		p := shell(t, script, "127.0.0.1:587")
		addresses, err := p.Addresses(t.Context())
		if err != nil || len(addresses) != 1 || addresses[0] != "127.0.0.1:587" || p.Scope() != "127.0.0.1:587 by /bin/sh" {
			t.Fatalf("the addresses are %v, %v", addresses, err)
		}
		if r := p.Try(t.Context(), probe.Try{Value: key("canary-tried"), Address: addresses[0]}); r.Verdict != want {
			t.Errorf("%s: got %+v", script, r)
		}
	}
	p := shell(t, says+`127.0.0.2:587`, "127.0.0.1:587")
	if r := p.Try(t.Context(), probe.Try{Value: key("canary-tried")}); r.Verdict != probe.Rejected || r.Address != "127.0.0.2:587" {
		t.Errorf("where the program may choose: %+v", r)
	}
	ask := `case $(cat) in *'"address":"127.0.0.1:587"'*) ` + says + `127.0.0.1:587;; esac`
	if r := shell(t, ask, "127.0.0.1:587").Try(t.Context(), probe.Try{Value: key("x"), Address: "127.0.0.1:587"}); r.Verdict != probe.Rejected {
		t.Errorf("the program is not told the address: %+v", r)
	}
}

func TestMistakes(t *testing.T) {
	for attribute, cfg := range map[string]execprobe.Config{
		"command":       {Program: program.Config{Command: "probe.py"}},
		"endpoint":      {Program: program.Config{Command: "/bin/true"}, Endpoint: "mail.example.com"},
		"lockout_after": {Program: program.Config{Command: "/bin/true"}, LockoutAfter: -1},
	} {
		if err := cfg.Validate(); !errors.Is(err, backends.ErrInvalid) || !strings.HasPrefix(err.Error(), "invalid: "+attribute+" ") {
			t.Errorf("%s: %v", attribute, err)
		}
	}
}
