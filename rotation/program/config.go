package program

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Config says which program, and how it is run. It is decoded from the attributes of
// a block that needs one; such a block's own Config takes it in by a field
//
//	Program program.Config `hcl:",remain"`
type Config struct {
	Command string   `hcl:"command"` // an absolute path
	Args    []string `hcl:"args,optional"`
	// Env and SecretEnv are the whole environment.
	Env       map[string]string                `hcl:"env,optional"`
	SecretEnv map[string]backends.SecretString `hcl:"secret_env,optional"`
	Timeout   time.Duration                    `hcl:"timeout,optional"` // of one exchange, default 30s
}

const defaultTimeout = 30 * time.Second

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Validate returns every mistake in c, joined, each an ErrInvalid in one line that
// begins with the attribute's name. It looks at no file.
func (c Config) Validate() error {
	var mistakes []error
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	if !filepath.IsAbs(c.Command) || strings.ContainsRune(c.Command, 0) {
		wrong("command %q is no absolute path: no shell and no PATH look for it; arguments go into args", c.Command)
	}
	if slices.ContainsFunc(c.Args, func(a string) bool { return strings.ContainsRune(a, 0) }) {
		wrong("args hold a NUL byte: no program can be given one")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		if _, twice := c.SecretEnv[name]; twice || !variable.MatchString(name) || strings.ContainsRune(c.Env[name], 0) {
			wrong("env.%s is no variable, holds a NUL byte, or is in secret_env, too: write letters, digits and _", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.SecretEnv)) {
		if !variable.MatchString(name) || strings.ContainsRune(c.SecretEnv[name].Reveal(), 0) {
			wrong("secret_env.%s is no variable, or holds a NUL byte: write letters, digits and _", name)
		}
	}
	if c.Timeout < 0 {
		wrong("timeout is negative: leave it out for %s", defaultTimeout)
	}
	return errors.Join(mistakes...)
}

// environment is what the program gets, sorted; nothing of the broker's own.
func (c Config) environment() []string {
	env := make([]string, 0, len(c.Env)+len(c.SecretEnv))
	for name, text := range c.Env {
		env = append(env, name+"="+text)
	}
	for name, text := range c.SecretEnv {
		env = append(env, name+"="+text.Reveal())
	}
	slices.Sort(env)
	return env
}
