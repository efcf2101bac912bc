package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/offline"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Workshop makes the issuers of an offline kit, without a broker. Files that their blocks
// name are written to a directory of its own as long as it is open.
type Workshop struct {
	dir         string
	credentials map[string]string // files with a block to be used instead, by issuer
	own         bool              // what the blocks take is here, and not in the kit
	logger      hclog.Logger
}

// NewWorkshop opens one. Credentials are files of the configuration, by the name of the
// issuer whose block they have in the place of the kit's: there env() and file() are those
// of this host.
func NewWorkshop(k *offline.Kit, credentials map[string]string, logger hclog.Logger) (*Workshop, error) {
	for name := range credentials {
		if _, ok := k.Issuer(name); !ok {
			return nil, fmt.Errorf("%w: the kit has no issuer %q", backends.ErrNotFound, name)
		}
	}
	dir, err := os.MkdirTemp(volatile(), "keybroker-offline-*") // of mode 0700
	if err != nil {
		return nil, fmt.Errorf("making a directory for what issuers log in with: %w", err)
	}
	return &Workshop{dir: dir, credentials: credentials, own: !k.Credentials, logger: logger}, nil
}

// volatile is where files are kept in memory alone; empty: nowhere, or nobody knows.
func volatile() string {
	for _, dir := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/dev/shm"} {
		if info, err := os.Stat(dir); dir != "" && err == nil && info.IsDir() {
			return dir
		}
	}
	return ""
}

// Close forgets what was written.
func (w *Workshop) Close() error { return os.RemoveAll(w.dir) }

// Issuer makes one, and tells what ends it, which may be nil. It asks nobody.
func (w *Workshop) Issuer(_ context.Context, i offline.Issuer) (issuer.Issuer, func(), error) {
	source, opts, err := w.source(i)
	if err != nil {
		return nil, nil, err
	}
	cfg, diags := config.Parse(source, Registry(), opts)
	if diags.HasErrors() {
		err := fmt.Errorf("%w: issuer %s cannot be used: %s", backends.ErrInvalid, i.Name, strings.TrimSpace(textOf(diags)))
		if w.own && w.credentials[i.Name] == "" {
			err = fmt.Errorf("%w (the kit has no credentials: set what the block takes here, or give --credential %s=FILE)", err, i.Name)
		}
		return nil, nil, err
	}
	for _, block := range cfg.Issuers {
		if t, ok := issuerTypes[block.Type]; ok && block.Name == i.Name && block.Type == i.Type {
			is, err := t.make(&parts{logger: w.logger, now: now}, block.Config)
			return is, closing(is), err
		}
	}
	return nil, nil, fmt.Errorf("%w: %s has no issuer %q %q", backends.ErrInvalid, w.credentials[i.Name], i.Type, i.Name)
}

// source is the block that an issuer is made of, and how it is read.
func (w *Workshop) source(i offline.Issuer) (map[string][]byte, config.Options, error) {
	if file := w.credentials[i.Name]; file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, config.Options{}, fmt.Errorf("reading --credential: %w", err)
		}
		return map[string][]byte{file: text}, config.Options{Dir: filepath.Dir(file)}, nil
	}
	if i.Type == "exec" { // anybody can encrypt a kit: it must not have a program run here that it names
		return nil, config.Options{}, fmt.Errorf("%w: issuer %s runs a program: give --credential %s=FILE with its block, so that it is one of yours", backends.ErrInvalid, i.Name, i.Name)
	}
	if len(i.Managed) > 0 {
		return nil, config.Options{}, fmt.Errorf("%w: issuer %s logs in with %s, which the broker manages and the kit does not have: give --credential %s=FILE with its block and another credential",
			backends.ErrInvalid, i.Name, strings.Join(i.Managed, ", "), i.Name)
	}
	source := map[string][]byte{blockFile: []byte(i.Source)}
	if w.own {
		return source, config.Options{Dir: "."}, nil
	}
	dir, err := os.MkdirTemp(w.dir, "*")
	if err != nil {
		return nil, config.Options{}, fmt.Errorf("making a directory for what issuer %s logs in with: %w", i.Name, err)
	}
	n, places := 0, map[string]string{}
	var errs []error
	for path, content := range i.Material.Files {
		places[path] = filepath.Join(dir, strconv.Itoa(n))
		errs = append(errs, os.WriteFile(places[path], content, 0o600))
		n++
	}
	return source, config.Options{Dir: dir,
		LookupEnv: func(name string) (string, bool) { text, ok := i.Material.Env[name]; return text, ok },
		Place: func(path string) string {
			if at, ok := places[path]; ok {
				return at
			}
			return filepath.Join(dir, "not-in-the-kit")
		}}, errors.Join(errs...)
}
