package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker" //nolint:depguard // it runs the configuration that is embedded there
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/examples/consumer/receiver" //nolint:depguard // its application is that of the example
)

// What the demo takes from config.hcl.
const (
	demoSecret   = "demo/api-key"
	demoNode     = "127.0.0.1:8400"
	demoConsumer = "127.0.0.1:8410"
	demoApp      = "demo-app"
)

func (a *app) demoCommand() *cobra.Command {
	var once bool
	var dir string
	var logs logFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See a key rotated, pushed, revoked and proven dead, in half a minute",
		Long: "Start a node with the configuration that keybroker comes with, in a temporary\n" +
			"directory, and an application on loopback that is told of new keys. Rotate the\n" +
			"application's key and show what happens until the old one is proven dead. Then the\n" +
			"node stays up to be looked at, until it is interrupted. Needs no other system.\n\n" +
			"A second key has leaked: leaked.env in that directory has it, as if it were found in a\n" +
			"public repository. docs/runbook.md begins with turning it off.",
		Args: takes(),
		RunE: a.does(func(ctx context.Context, _ []string) error {
			logger, err := logs.logger(a)
			if err != nil {
				return err
			}
			d, err := openDemo(ctx, dir, daemon.Options{Logger: logger})
			if err != nil {
				return fmt.Errorf("starting the demo: %w", err)
			}
			err = a.runDemo(ctx, d, once)
			if ctx.Err() != nil && !once {
				err = nil // it lasts until it is interrupted
			}
			return errors.Join(err, d.close())
		}),
	}
	cmd.Flags().StringVar(&dir, "dir", "", "a directory to make, and to remove in the end; default: a temporary one")
	cmd.Flags().BoolVar(&once, "once", false, "exit after the proof: 0 if everything was proven, else 1")
	logs.declare(cmd, "error")
	return cmd
}

// demo is a node and an application, both in this process.
type demo struct {
	dir   string
	node  *daemon.Daemon
	app   *receiver.Receiver
	where string // of the application

	stop    context.CancelFunc
	servers sync.WaitGroup
	mu      sync.Mutex
	errs    []error
}

// openDemo starts both. Ports of the configuration that are taken are replaced
// by free ones.
func openDemo(ctx context.Context, dir string, opts daemon.Options) (_ *demo, err error) {
	d := &demo{}
	if d.dir, err = makeDir(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	nodeListener, err := listenNear(demoNode)
	if err != nil {
		return nil, err
	}
	appListener, err := listenNear(demoConsumer)
	if err != nil {
		return nil, errors.Join(err, nodeListener.Close())
	}
	d.where = "http://" + appListener.Addr().String()
	text := bytes.ReplaceAll(keybroker.DefaultConfig, []byte(demoNode), []byte(nodeListener.Addr().String()))
	text = bytes.ReplaceAll(text, []byte(demoConsumer), []byte(appListener.Addr().String()))
	opts.Load = func() (*config.Config, *config.Diagnostics) {
		return config.Parse(map[string][]byte{"config.hcl": text, "demo.hcl": leakConfig}, daemon.Registry(), config.Options{Dir: d.dir})
	}
	cfg, diags := opts.Load()
	if err := diags.Err(); err != nil {
		return nil, errors.Join(err, nodeListener.Close(), appListener.Close())
	}
	opts.Config, opts.Listener = cfg, nodeListener
	if d.node, err = daemon.Open(ctx, opts); err != nil {
		return nil, errors.Join(err, appListener.Close())
	}
	return d, d.serve(ctx, appListener)
}

// makeDir makes a directory, which must be new: in the end it is removed.
func makeDir(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "keybroker-demo-*")
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return "", &hintError{err, "the demo makes the directory, and removes it in the end"}
	}
	return dir, err
}

// listenNear listens at addr, or at a free port of the same host if it is taken.
func listenNear(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		return l, nil
	}
	host, _, _ := net.SplitHostPort(addr)
	return net.Listen("tcp", net.JoinHostPort(host, "0"))
}

// serve runs the application and the node until close.
func (d *demo) serve(ctx context.Context, l net.Listener) error {
	var err error
	if d.app, err = receiver.New("", receiver.Options{Consumer: demoApp, Broker: d.node.Addr()}); err != nil {
		return errors.Join(err, l.Close())
	}
	ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	app := &http.Server{Handler: d.app, ReadHeaderTimeout: 10 * time.Second}
	d.run(func() error {
		if err := app.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	d.run(func() error {
		err := d.node.Run(ctx)
		return errors.Join(err, app.Close())
	})
	return nil
}

func (d *demo) run(f func() error) {
	d.servers.Go(func() {
		if err := f(); err != nil {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.errs = append(d.errs, err)
		}
	})
}

// close stops both and removes what they left.
func (d *demo) close() error {
	if d.stop != nil {
		d.stop()
		d.servers.Wait()
	}
	return errors.Join(append(d.errs, os.RemoveAll(d.dir))...)
}

func (d *demo) tokenFile() string { return filepath.Join(d.dir, "data", daemon.RootTokenFile) }

// runDemo rotates the demo's secret and shows it.
func (a *app) runDemo(ctx context.Context, d *demo, once bool) error {
	token, err := os.ReadFile(d.tokenFile())
	if err != nil {
		return err
	}
	c, err := client.New(d.node.Addr(), strings.TrimSpace(string(token)), client.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	for _, name := range []string{demoSecret, leakedSecret} {
		if err := firstKey(ctx, c, name); err != nil {
			return err
		}
	}
	if err := d.leak(ctx, c); err != nil {
		return err
	}
	a.tell("A node is serving at %s, and an application at %s.", d.node.Addr(), d.where)
	old, err := c.Value(ctx, demoSecret, 0)
	if err != nil {
		return err
	}
	a.tell("The application's key, %s version %d, is being rotated:\n", demoSecret, old.Version)
	id, err := rotateNow(ctx, c)
	if err != nil {
		return err
	}
	if err := a.watchRotation(ctx, c, id); err != nil {
		return err
	}
	if err := a.checkDemo(ctx, c, d, old); err != nil || once {
		return err
	}
	a.explore(d)
	<-ctx.Done()
	return nil
}

// tell says something to people beside the timeline; for programs it is no result.
func (a *app) tell(format string, args ...any) {
	if a.json() {
		a.note(format, args...)
		return
	}
	fmt.Fprintf(a.out, format+"\n", args...)
}

// firstKey waits until a secret has its first version, which a new node makes
// at once.
func firstKey(ctx context.Context, c *client.Client, name string) error {
	const patience = 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		s, err := c.Secret(ctx, name)
		if err == nil && s.Current() > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("the first key was not made in time"), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// rotateNow starts a rotation, or takes the one that the schedule has started.
func rotateNow(ctx context.Context, c *client.Client) (string, error) {
	for {
		r, err := c.Rotate(ctx, demoSecret, client.RotateRequest{Reason: "demo"})
		if client.Status(err) != http.StatusConflict {
			return r.ID, err
		}
		live, err := c.Rotations(ctx, client.RotationQuery{Secret: demoSecret, Live: true, Page: client.Page{Limit: 1}})
		if err != nil {
			return "", err
		}
		if len(live.Items) > 0 && live.Items[0].FromVersion > 0 {
			return live.Items[0].ID, nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// checkDemo tries both keys once more, and looks at what the application holds.
// By then the schedule may have brought a newer key, which is on its way to it.
func (a *app) checkDemo(ctx context.Context, c *client.Client, d *demo, old client.Value) error {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		now, err := c.Value(ctx, demoSecret, 0)
		if err != nil {
			return err
		}
		held, _ := d.app.Current(demoSecret)
		if held.Reveal()["key"] == now.Fields["key"] {
			if err := tryKeys(ctx, c, old, now); err != nil {
				return err
			}
			a.tell("\nTried once more: the key of version %d is refused, that of version %d works, and the application has it.", old.Version, now.Version)
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the application does not hold the current key")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tryKeys tells whether the old key is refused and the present one works.
func tryKeys(ctx context.Context, c *client.Client, old, now client.Value) error {
	for _, try := range []struct {
		v    client.Value
		want bool
	}{{old, false}, {now, true}} {
		check, err := c.CheckKey(ctx, client.SecretText(try.v.Fields["key"]))
		if err != nil {
			return err
		}
		if check.Active != try.want {
			return fmt.Errorf("the key of version %d: active is %v, not %v", try.v.Version, check.Active, try.want)
		}
	}
	return nil
}

// explore says how to look around.
func (a *app) explore(d *demo) {
	a.tell(`
The node stays up, rotates every minute, and can be looked at:

  . %s
  keybroker secret show %s
  keybroker rotation watch %s
  keybroker retirement list

Another key has leaked, as %s shows. Turn it off, from its value alone:

  keybroker secret identify %s
  keybroker emergency --leaked-value %s --reason "seen in a public repository" --wait

("keybroker" is: go run ./cmd/keybroker. The token is good for an hour.) Ctrl-C ends it
and removes its data.`,
		d.envFile(), demoSecret, demoSecret, d.leakedFile(), d.leakedFile(), d.leakedFile())
}
