package exec_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/exec"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest"
	"github.com/keybroker/keybroker/rotation/program"
)

const token = "canary-keystore-token"

// store is a directory of the example's program.
type store struct {
	t    *testing.T
	path string
}

func newStore(t *testing.T) store {
	t.Helper()
	s := store{t, filepath.Join(t.TempDir(), "store")}
	if err := errors.Join(os.Mkdir(s.path, 0o700), os.WriteFile(filepath.Join(s.path, "admin-token"), []byte(token+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return s
}

func python(t *testing.T) string {
	t.Helper()
	path, err := osexec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	if path, err = filepath.Abs(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s store) args() []string {
	script, err := filepath.Abs("../../../examples/issuers/exec/keystore.py")
	if err != nil {
		s.t.Fatal(err)
	}
	return []string{"-I", "-S", script, s.path}
}

func (s store) config(prepare bool) exec.Config {
	return exec.Config{
		Program: program.Config{Command: python(s.t), Args: s.args(), SecretEnv: map[string]backends.SecretString{"KEYSTORE_TOKEN": token}},
		Fields:  []string{"key"}, Handle: []string{"id"}, Prepare: prepare, Find: true, MaxLive: 3, ShowOnce: true,
	}
}

// cut is an issuer whose program ends at a point; see testdata/cut.sh.
func (s store) cut(cfg exec.Config, point, flag string) issuer.Issuer {
	script, err := filepath.Abs("testdata/cut.sh")
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.Program.Command, cfg.Program.Args = "/bin/sh", append([]string{script, point, flag, cfg.Program.Command}, cfg.Program.Args...)
	return s.open(cfg)
}

func (s store) open(cfg exec.Config) issuer.Issuer {
	s.t.Helper()
	if err := cfg.Validate(); err != nil {
		s.t.Fatal(err)
	}
	return exec.New(cfg)
}

type entry struct {
	Tag    string `json:"tag"`
	SHA256 string `json:"sha256"`
}

func (s store) entries() (all map[string]entry) {
	b, err := os.ReadFile(filepath.Join(s.path, "keys.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

func (s store) live() []string {
	tags := []string{}
	for _, e := range s.entries() {
		tags = append(tags, e.Tag)
	}
	return tags
}

func TestConformance(t *testing.T) {
	for name, prepare := range map[string]bool{"the program mints": false, "the broker prepares": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuertest.Run(t, func(t *testing.T) issuertest.Harness { return harness(t, prepare) })
		})
	}
}

func harness(t *testing.T, prepare bool) issuertest.Harness {
	s := newStore(t)
	cfg := s.config(prepare)
	wrong, missing, flag := cfg, cfg, filepath.Join(t.TempDir(), "lose")
	wrong.Program.SecretEnv = map[string]backends.SecretString{"KEYSTORE_TOKEN": "canary-wrong-token"}
	missing.Program.Command = filepath.Join(s.path, "no-such-program")
	subject := func(name string) issuer.Subject {
		return issuer.Subject{Ref: backends.Ref{Tenant: "acme", Name: name}, Settings: json.RawMessage(`{"scopes": ["read"]}`)}
	}
	return issuertest.Harness{
		Issuer:  s.cut(cfg, "lost", flag),
		Subject: subject("app/one"),
		Others:  []issuer.Subject{subject("app/two"), subject("app/three")},
		Live:    s.live,
		Works:   s.works,
		Cut: func(n int) (issuer.Issuer, func() bool) {
			reached := filepath.Join(t.TempDir(), "reached")
			point := append([]string{"begin", "answer", "half"}, "never")[min(n, 3)]
			return s.cut(cfg, point, reached), func() bool {
				_, err := os.Stat(reached)
				return err == nil
			}
		},
		LoseAnswer: func() {
			if err := os.WriteFile(flag, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		Outage: func(on bool) {
			from, to := s.path, s.path+".away"
			if !on {
				from, to = to, from
			}
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		},
		Hang: s.hang(),
		Refused: func(req issuer.Request) issuer.Request {
			req.Subject.Settings = json.RawMessage(`{"scopes": ["everything"]}`)
			return req
		},
		Limited:     true,
		Denied:      s.open(wrong),
		Unreachable: s.open(missing),
		Secrets:     []string{token, "canary-wrong-token"},
	}
}

// works looks for the key as the program does when it probes.
func (s store) works(v backends.Value) bool {
	sum := sha256.Sum256([]byte(v.Reveal()["key"]))
	for _, e := range s.entries() {
		if e.SHA256 == hex.EncodeToString(sum[:]) {
			return true
		}
	}
	return false
}

// hang holds the lock that the program waits for.
func (s store) hang() func(bool) {
	var held *os.File
	return func(on bool) {
		if !on {
			_ = held.Close()
			return
		}
		f, err := os.OpenFile(filepath.Join(s.path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err == nil {
			err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		held = f
	}
}

// shell is an issuer whose program is a few words of sh, which gets the request on
// its standard input.
func shell(t *testing.T, script string, change func(*exec.Config)) issuer.Issuer {
	t.Helper()
	cfg := exec.Config{
		Program: program.Config{Command: "/bin/sh", Args: []string{"-c", script}, SecretEnv: map[string]backends.SecretString{"TOKEN": token}},
		Fields:  []string{"key"}, Handle: []string{"id"},
	}
	if change != nil {
		change(&cfg)
	}
	return store{t: t}.open(cfg)
}

var request = issuer.Request{Subject: issuer.Subject{Ref: backends.Ref{Tenant: "acme", Name: "app/one"}}, Tag: "kb-1-1", Attempt: 1, Version: 1}

// An answer that is not whole is no credential, and nothing of it is in the error.
func TestAnswersThatAreNotWhole(t *testing.T) {
	const value = "canary-minted-value"
	for name, answer := range map[string]string{
		"no field":               `{"protocol":1,"handle":{"id":"1"},"value":{}}`,
		"another field":          `{"protocol":1,"handle":{"id":"1"},"value":{"token":"` + value + `"}}`,
		"one field more":         `{"protocol":1,"handle":{"id":"1"},"value":{"key":"` + value + `","more":"x"}}`,
		"an empty field":         `{"protocol":1,"handle":{"id":"1"},"value":{"key":""}}`,
		"no handle":              `{"protocol":1,"value":{"key":"` + value + `"}}`,
		"an empty handle":        `{"protocol":1,"handle":{"id":""},"value":{"key":"` + value + `"}}`,
		"another handle":         `{"protocol":1,"handle":{"name":"1"},"value":{"key":"` + value + `"}}`,
		"the value as handle":    `{"protocol":1,"handle":{"id":"` + value + `"},"value":{"key":"` + value + `"}}`,
		"the value in a handle":  `{"protocol":1,"handle":{"id":"x-` + value + `"},"value":{"key":"` + value + `"}}`,
		"a token as handle":      `{"protocol":1,"handle":{"id":"x-` + token + `"},"value":{"key":"` + value + `"}}`,
		"not found":              `{"protocol":1,"error":{"class":"not_found","message":"no such scope"}}`,
		"not supported":          `{"protocol":1,"error":{"class":"unsupported"}}`,
		"another protocol":       `{"protocol":2,"handle":{"id":"1"},"value":{"key":"` + value + `"}}`,
		"a field that is not":    `{"protocol":1,"handle":{"id":"1"},"value":{"key":"` + value + `"},"` + value + `":1}`,
		"two objects":            `{"protocol":1,"handle":{"id":"1"},"value":{"key":"` + value + `"}}{}`,
		"no JSON":                value,
		"nothing":                ``,
		"an unknown class":       `{"protocol":1,"error":{"class":"` + value + `","message":""}}`,
		"a value that is no map": `{"protocol":1,"handle":{"id":"1"},"value":"` + value + `"}`,
	} {
		cred, err := shell(t, "printf %s '"+answer+"'", nil).Issue(t.Context(), request)
		if known := strings.Contains(name, "field") && name != "a field that is not"; known != (len(cred.Handle) == 1) || !cred.Value.IsZero() {
			t.Errorf("%s: it is %v", name, cred)
		}
		if !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, issuer.ErrNotSent) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := `{"protocol":1,"handle":{"id":"1"},"value":{"key":"` + value + `"},"not_after":"2030-01-02T03:04:05+01:00"}`
	cred, err := shell(t, "printf %s '"+whole+"'", nil).Issue(t.Context(), request)
	if err != nil || !cred.NotAfter.Equal(time.Date(2030, 1, 2, 2, 4, 5, 0, time.UTC)) {
		t.Errorf("a whole answer: %+v, %v", cred, err)
	}
	prepared := request
	prepared.Prepared = backends.NewValue(map[string]string{"key": "canary-prepared"})
	_, err = shell(t, "printf %s '"+whole+"'", func(c *exec.Config) { c.Prepare = true }).Issue(t.Context(), prepared)
	if !errors.Is(err, backends.ErrUnavailable) || strings.Contains(err.Error(), "canary") {
		t.Errorf("another value than the one prepared: %v", err)
	}
}

// What is no secret may stand in a handle, as may what is in it by chance.
func TestPublicFields(t *testing.T) {
	for name, answer := range map[string]string{
		"a user's name": `{"protocol":1,"handle":{"id":"1","username":"app-12345678"},"value":{"username":"app-12345678","region":"eu","key":"canary-minted-value"}}`,
		"a short text":  `{"protocol":1,"handle":{"id":"eu-1","username":"app"},"value":{"username":"app","region":"eu","key":"canary-minted-value"}}`,
	} {
		is := shell(t, "printf %s '"+answer+"'", func(c *exec.Config) {
			c.Fields, c.Handle, c.Public = []string{"username", "region", "key"}, []string{"id", "username"}, []string{"username"}
		})
		if cred, err := is.Issue(t.Context(), request); err != nil || len(cred.Handle) != 2 || cred.Value.Reveal()["key"] != "canary-minted-value" {
			t.Errorf("%s: %v, %v", name, cred, err)
		}
	}
	find := shell(t, `printf %s '{"protocol":1,"found":[{"tag":"kb-1-1","handle":{"id":"`+token+`"}}]}'`, func(c *exec.Config) { c.Find = true }).(issuer.Finder)
	if found, err := find.Find(t.Context(), request.Subject, request.Tag); !errors.Is(err, backends.ErrUnavailable) || strings.Contains(err.Error(), token) {
		t.Errorf("a token as handle is found as %v, %v", found, err)
	}
}

// A program that knows no check says so; what its findings lack is named.
func TestCheck(t *testing.T) {
	for answer, want := range map[string]issuer.Finding{
		`{"protocol":1,"error":{"class":"unsupported","message":"?"}}`:                               {Problem: "does not know", Unknown: true},
		`{"protocol":1,"error":{"class":"denied","message":"not yours, ` + token + `"}}`:             {Problem: "denied", Mend: "by hand"},
		`{"protocol":1,"findings":[{"what":"may mint","problem":"it may not","mend":"permit it"}]}`:  {What: "may mint", Problem: "it may not", Mend: "permit it"},
		`{"protocol":1,"findings":[{"what":"","problem":"?"}]}`:                                      {Problem: "about nothing", Unknown: true},
		`{"protocol":1,"findings":[{"what":"may mint","problem":"the token ` + token + ` is old"}]}`: {What: "may mint", Problem: "not shown"},
	} {
		found := shell(t, "printf %s '"+answer+"'", nil).(issuer.Checker).Check(t.Context(), request.Subject)
		last := found[len(found)-1]
		if !strings.Contains(last.What, want.What) || !strings.Contains(last.Problem, want.Problem) || !strings.Contains(last.Mend, want.Mend) || last.Unknown != want.Unknown || strings.Contains(last.Problem, token) {
			t.Errorf("%s: got %+v", answer, last)
		}
	}
}

// A program that is not there is told with what mends that, and once.
func TestCheckOfAProgramThatIsNotThere(t *testing.T) {
	is := exec.New(exec.Config{Program: program.Config{Command: "/nowhere/mint"}, Fields: []string{"key"}, Handle: []string{"id"}})
	found := is.(issuer.Checker).Check(t.Context(), request.Subject)
	if len(found) != 1 || !strings.Contains(found[0].Mend, "see that the file of command is there") || !strings.HasSuffix(found[0].Problem, "there is no such file, or it cannot be looked at (it was not started)") {
		t.Errorf("%+v", found)
	}
	if _, err := is.Issue(t.Context(), request); !errors.Is(err, issuer.ErrNotSent) || !errors.Is(err, program.ErrNotStarted) || !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("a mint: %v", err)
	}
}

func TestMistakes(t *testing.T) {
	good := exec.Config{Program: program.Config{Command: "/bin/true"}, Fields: []string{"key"}, Handle: []string{"id"}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	negative := -time.Second
	for attribute, change := range map[string]func(*exec.Config){
		"command": func(c *exec.Config) { c.Program.Command = "keystore.py" },
		"args":    func(c *exec.Config) { c.Program.Args = []string{"a\x00b"} },
		"env.A-B": func(c *exec.Config) { c.Program.Env = map[string]string{"A-B": "x"} },
		"env.TOKEN": func(c *exec.Config) {
			c.Program.Env, c.Program.SecretEnv = map[string]string{"TOKEN": "x"}, map[string]backends.SecretString{"TOKEN": token}
		},
		"secret_env.A B":    func(c *exec.Config) { c.Program.SecretEnv = map[string]backends.SecretString{"A B": token} },
		"timeout":           func(c *exec.Config) { c.Program.Timeout = negative },
		"fields":            func(c *exec.Config) { c.Fields = nil },
		"handle":            func(c *exec.Config) { c.Handle = []string{"id", "id"} },
		"public":            func(c *exec.Config) { c.Public = []string{"name"} },
		"handle ":           func(c *exec.Config) { c.Handle = []string{"key"} },
		"prepare":           func(c *exec.Config) { c.Prepare, c.Fields = true, []string{"a", "b"} },
		"max_live":          func(c *exec.Config) { c.MaxLive = -1 },
		"revocation_budget": func(c *exec.Config) { c.RevocationBudget = &negative },
	} {
		cfg := good
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), "invalid: "+strings.TrimSpace(attribute)+" ") || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", attribute, err)
		}
	}
}
