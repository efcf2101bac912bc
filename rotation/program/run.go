package program

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/keybroker/keybroker/backends"
)

// ErrNotStarted stands beside backends.ErrUnavailable where the program certainly
// did nothing, since it was not started.
var ErrNotStarted = errors.New("it was not started")

const (
	maxAnswer  = 1 << 20                // bytes
	maxMessage = 300                    // characters of a text that is shown
	lingering  = 500 * time.Millisecond // for those who keep its output open once it has ended
)

// Runner runs one program. Safe for concurrent use.
type Runner struct{ cfg Config }

// New returns a runner of a valid configuration. It looks at no file.
func New(cfg Config) *Runner {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	return &Runner{cfg}
}

// Command is the program's path.
func (r *Runner) Command() string { return r.cfg.Command }

// Secrets are the texts that every run of the program is given to keep.
func (r *Runner) Secrets() (all []string) {
	for _, s := range r.cfg.SecretEnv {
		all = append(all, s.Reveal())
	}
	return all
}

// Run makes one exchange. Errors are of the classes of package backends and hold no
// secret; with ErrNotStarted nothing was done.
func (r *Runner) Run(ctx context.Context, req Request) (Answer, error) {
	req.Protocol = Protocol
	if req.Secret.Labels == nil {
		req.Secret.Labels = map[string]string{}
	}
	answer, err := r.run(ctx, req)
	if err != nil {
		return Answer{}, fmt.Errorf("%s by %s: %w", req.Operation, r.cfg.Command, err)
	}
	return answer, nil
}

func (r *Runner) run(ctx context.Context, req Request) (Answer, error) {
	question, err := json.Marshal(req)
	if err != nil {
		return Answer{}, fmt.Errorf("%w: it cannot be asked for: the settings are no JSON (%w)", backends.ErrInvalid, ErrNotStarted)
	}
	defer clear(question)
	if err := r.usable(); err != nil {
		return Answer{}, fmt.Errorf("%w: %w (%w)", backends.ErrUnavailable, err, ErrNotStarted)
	}
	out, errs, err := r.execute(ctx, question)
	defer clear(out.text)
	var exit *exec.ExitError
	switch {
	case errors.Is(err, ErrNotStarted):
		return Answer{}, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	case out.full:
		return Answer{}, fmt.Errorf("%w: its answer is longer than %d bytes", backends.ErrUnavailable, maxAnswer)
	case ctx.Err() != nil:
		return Answer{}, fmt.Errorf("%w: it was killed before it had answered: %w", backends.ErrUnavailable, ctx.Err())
	case errors.Is(err, context.DeadlineExceeded):
		return Answer{}, fmt.Errorf("%w: it was killed after %s: %w", backends.ErrUnavailable, r.cfg.Timeout, context.DeadlineExceeded)
	case errors.As(err, &exit):
		return Answer{}, r.failed(req, out.text, exit.ExitCode(), errs.n)
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return Answer{}, fmt.Errorf("%w: its answer was not heard to the end", backends.ErrUnavailable)
	}
	answer, err := decode(out.text)
	if err != nil {
		return Answer{}, fmt.Errorf("%w: its answer cannot be read: %w (%d bytes, and %d on standard error)", backends.ErrUnavailable, err, len(out.text), errs.n)
	}
	if answer.Error != nil {
		return Answer{}, r.failure(req, answer)
	}
	r.clean(req, &answer)
	return answer, nil
}

// usable refuses a file that is no program, or that anybody may change: it would be
// given what the broker keeps secret.
func (r *Runner) usable() error {
	info, err := os.Stat(r.cfg.Command)
	switch {
	case err != nil:
		return errors.New("there is no such file, or it cannot be looked at")
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return errors.New("it is no executable file")
	case info.Mode().Perm()&0o002 != 0:
		return errors.New("everybody may change it: chmod o-w it")
	}
	return nil
}

// execute starts the program, and returns once it and its process group have ended.
func (r *Runner) execute(ctx context.Context, question []byte) (out *bounded, errs *counter, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	out, errs = &bounded{full: false, stop: cancel}, new(counter)
	cmd := exec.CommandContext(ctx, r.cfg.Command, r.cfg.Args...)
	cmd.Env, cmd.Dir = r.cfg.environment(), "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(question), out, errs
	cmd.WaitDelay = lingering
	inGroup(cmd)
	if err := cmd.Start(); err != nil {
		return out, errs, fmt.Errorf("%w: %s", ErrNotStarted, startFailure(err))
	}
	err = end(cmd)
	if ended := ctx.Err(); ended != nil && err != nil {
		err = ended
	}
	return out, errs, err
}

// startFailure is in words of ours: those of the system name arguments.
func startFailure(err error) string {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "there was no time left"
	case errors.Is(err, os.ErrPermission):
		return "the broker may not execute it"
	}
	return "the system does not execute it"
}

// failed is the error of a program that ended with another status than 0: what its
// answer says, if there is one, or else what the status does.
func (r *Runner) failed(req Request, out []byte, status, errs int) error {
	if answer, err := decode(out); err == nil && answer.Error != nil {
		return r.failure(req, answer)
	}
	class := exits[status]
	if class == nil {
		class = backends.ErrUnavailable
	}
	how := fmt.Sprintf("it ended with status %d", status)
	if status < 0 {
		how = "it was killed"
	}
	return fmt.Errorf("%w: %s and no error in its answer (%d bytes on standard error)", class, how, errs)
}

func (r *Runner) failure(req Request, a Answer) error {
	class := classes[a.Error.Class]
	if text := r.shown(req, a, a.Error.Message); text != "" {
		return fmt.Errorf("%w: %s", class, text)
	}
	return class
}

// clean leaves of the texts in an answer only what may be shown.
func (r *Runner) clean(req Request, a *Answer) {
	a.Detail = r.shown(req, *a, a.Detail)
	for i, f := range a.Findings {
		a.Findings[i] = Finding{What: r.shown(req, *a, f.What), Problem: r.shown(req, *a, f.Problem), Mend: r.shown(req, *a, f.Mend), Unknown: f.Unknown}
	}
}

// shown is a text of the program as it is shown to people: without control
// characters, of a bounded length, and not at all if a secret is in it, or a part of one,
// however it is written.
func (r *Runner) shown(req Request, a Answer, text string) string {
	secrets := slices.AppendSeq(slices.Collect(maps.Values(req.Value)), maps.Values(a.Value))
	for _, s := range append(secrets, r.Secrets()...) {
		if s != "" && strings.Contains(text, s) || backends.Quotes(text, s) {
			return "(its text holds a secret, and is not shown)"
		}
	}
	text = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, text)
	if runes := []rune(text); len(runes) > maxMessage {
		text = string(runes[:maxMessage]) + "…"
	}
	return strings.TrimSpace(text)
}

// bounded keeps what is written to it, and has the writer killed for too much.
type bounded struct {
	text []byte
	full bool
	stop func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.text)+len(p) > maxAnswer {
		b.full = true
		b.stop()
		return 0, errors.New("too long")
	}
	b.text = append(b.text, p...)
	return len(p), nil
}

// counter counts bytes and forgets them.
type counter struct{ n int }

func (c *counter) Write(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}
