package daemon

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"filippo.io/age"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/privatefile"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/offline"
	"github.com/keybroker/keybroker/broker/report"
	"github.com/keybroker/keybroker/broker/store"
)

const (
	kitPage  = 500              // secrets that are read at once
	kitDaily = 24 * time.Hour   // it is written at least as often
	kitLate  = 3                // intervals without a kit: somebody is told
	kitFile  = 1 << 20          // bytes that a file of an issuer may have
	kitLeast = 10 * time.Second // how long one that failed is left alone, at most an interval
)

// kitKeeper keeps the file up to date that contains when the broker is down.
type kitKeeper struct {
	mu     sync.Mutex
	since  time.Time // when the file was last written, or the keeper began
	err    error     // of the last attempt
	path   string    // of the file; empty: none is kept
	every  time.Duration
	wanted string // the incident id of a journal that lies beside it; empty: there is none
}

// OfflineKit gives the kit as it is now, for Broker.OfflineKit. ErrNotFound if the
// configuration says not who could open it.
func (d *Daemon) offlineKit(ctx context.Context) ([]byte, error) {
	cfg := d.setup.Load().cfg
	if cfg.OfflineKit == nil {
		return nil, fmt.Errorf("%w: the configuration has no block offline_kit, which says who can open it", backends.ErrNotFound)
	}
	var out bytes.Buffer
	err := d.writeKit(ctx, cfg, issuersOf(cfg), &out)
	return out.Bytes(), err
}

// keepOfflineKit writes the file when the state, the configuration or what it takes from
// around has changed, and once a day.
func (d *Daemon) keepOfflineKit(ctx context.Context) {
	var written [sha256.Size]byte
	for wait := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		cfg := d.setup.Load().cfg
		kit := cfg.OfflineKit
		if kit == nil || kit.Path == "" {
			d.kit.note(nil, "", 0, now())
			wait = kitLeast
			continue
		}
		wait = kit.Interval
		d.lookForJournal(ctx, kit.Path)
		what, err := d.kitState(ctx, cfg)
		if err == nil && what == written && !d.kit.due(kit.Path) {
			continue
		}
		if err == nil {
			err = privatefile.Replace(kit.Path, func(w io.Writer) error { return d.writeKit(ctx, cfg, issuersOf(cfg), w) })
		}
		if ctx.Err() != nil {
			return
		}
		d.kit.note(err, kit.Path, kit.Interval, now())
		if err != nil {
			d.log.Warn("the offline kit could not be written", "error", err)
			wait = min(kit.Interval, kitLeast)
			continue
		}
		written = what
	}
}

// kitState is a digest of all that a kit is made of.
func (d *Daemon) kitState(ctx context.Context, cfg *config.Config) (sum [sha256.Size]byte, err error) {
	var last int64
	err = d.db.View(ctx, func(tx *store.Tx) (err error) {
		last, err = tx.LastChange(ctx)
		return err
	})
	if err != nil {
		return sum, err
	}
	text, err := json.Marshal([]any{last, cfg.OfflineKit.Path, cfg.OfflineKit.Recipients, cfg.OfflineKit.RecipientsFile, issuersOf(cfg), consumersOf(cfg)})
	return sha256.Sum256(text), err
}

// note keeps what came of an attempt.
func (k *kitKeeper) note(err error, path string, every time.Duration, at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil || path != k.path {
		k.since = at
	}
	k.err, k.path, k.every = err, path, every
}

// due tells whether the file is to be written although nothing has changed.
func (k *kitKeeper) due(path string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, err := os.Stat(path)
	return k.err != nil || now().Sub(k.since) >= kitDaily || errors.Is(err, fs.ErrNotExist)
}

// kitWrong tells of a kit that is stale, and of a journal that nobody handed in.
func (d *Daemon) kitWrong(add func(kind, tenant, what, next, format string, args ...any)) {
	k := &d.kit
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil && now().Sub(k.since) > kitLate*k.every {
		add(alert.OfflineKitStale, "", "offline kit", "keybroker offline kit --out FILE", "the offline kit %s is of %s and cannot be written: %s", k.path, k.since.Format(time.RFC3339), k.err)
	}
	if k.wanted != "" {
		add(alert.OfflineReturnWanted, "", "offline journal", "keybroker offline return "+k.wanted,
			"credentials were revoked while the broker was down: hand the journal in, so that their death is proven and replacements are made")
	}
}

// lookForJournal looks whether credentials were revoked by the kit that nobody has told
// the broker of.
func (d *Daemon) lookForJournal(ctx context.Context, kit string) {
	path, wanted := kit+offline.JournalSuffix, ""
	account, err := offline.ReadJournal(path)
	switch {
	case errors.Is(err, backends.ErrNotFound):
	case err != nil:
		d.log.Error("the journal of what was revoked offline cannot be read", "journal", path, "error", err)
	case len(account.Versions) > 0 && !d.handedIn(ctx, account.ID):
		wanted = path
	}
	d.kit.mu.Lock()
	defer d.kit.mu.Unlock()
	if wanted != "" && d.kit.wanted == "" {
		d.log.Error("credentials were revoked while the broker was down; hand the journal in", "next", "keybroker offline return "+path)
	}
	d.kit.wanted = wanted
}

func (d *Daemon) handedIn(ctx context.Context, incident string) bool {
	err := d.db.View(ctx, func(tx *store.Tx) error {
		_, err := tx.Incident(ctx, incident)
		return err
	})
	return err == nil
}

// recipientsOf are who can open a kit.
func recipientsOf(kit *config.OfflineKit) ([]age.Recipient, error) {
	if kit.RecipientsFile == "" {
		return seal.ParseRecipients(kit.Recipients)
	}
	text, err := os.ReadFile(kit.RecipientsFile)
	if err != nil {
		return nil, fmt.Errorf("reading recipients_file: %w", err)
	}
	to, err := age.ParseRecipients(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%w: recipients_file has no public keys of age, one a line", backends.ErrInvalid)
	}
	return to, nil
}

// writeKit writes what there is now. It holds a page of secrets in memory.
func (d *Daemon) writeKit(ctx context.Context, cfg *config.Config, issuers []offline.Issuer, w io.Writer) error {
	to, err := recipientsOf(cfg.OfflineKit)
	if err != nil {
		return err
	}
	h := offline.Header{MadeAt: now(), Node: d.node, Installation: d.installation(), Credentials: !cfg.OfflineKit.NoCredentials}
	err = d.db.View(ctx, func(tx *store.Tx) (err error) {
		h.Generation, err = tx.LastChange(ctx)
		return err
	})
	if err != nil {
		return err
	}
	k, err := offline.NewWriter(w, to, h)
	if err != nil {
		return err
	}
	types := map[string]string{}
	for _, i := range issuers {
		types[i.Name] = i.Type
		if err := k.Issuer(i); err != nil {
			return err
		}
	}
	for _, c := range consumersOf(cfg) {
		if err := k.Consumer(c); err != nil {
			return err
		}
	}
	for at := (store.Page{Limit: kitPage}); ; {
		page, next, err := d.kitPage(ctx, at, types)
		if err != nil {
			return err
		}
		for _, s := range page {
			if err := k.Secret(s); err != nil {
				return err
			}
		}
		if at.After = next; next == "" {
			return k.Close()
		}
	}
}

// installation names whose state it is: by the key that signs its reports, which all of
// its nodes have.
func (d *Daemon) installation() string {
	return report.KeyOf(d.reportKey.Public().(ed25519.PublicKey)).ID
}

// kitPage are some secrets with their versions that may be alive.
func (d *Daemon) kitPage(ctx context.Context, at store.Page, types map[string]string) (page []offline.Secret, next string, err error) {
	err = d.db.View(ctx, func(tx *store.Tx) error {
		page = nil
		secrets, after, err := tx.Secrets(ctx, store.SecretFilter{}, at)
		if err != nil {
			return err
		}
		next = after
		ids := make([]string, len(secrets))
		for i, s := range secrets {
			ids[i] = s.ID
		}
		alive, err := tx.AliveVersions(ctx, ids)
		if err != nil {
			return err
		}
		versions, err := tx.VersionsOf(ctx, alive)
		if err != nil {
			return err
		}
		retired := map[string]string{}
		for _, a := range alive {
			if a.Retirement != nil {
				retired[fmt.Sprint(a.SecretID, a.Number)] = string(a.Retirement.State)
			}
		}
		of := map[string][]offline.Version{}
		for _, v := range versions {
			one := offline.Version{Number: v.Number, Stage: string(v.Stage), Issuer: v.Issuer, Probe: v.Probe, Settings: v.Settings, Handle: v.Handle, Tag: v.Tag,
				Slot: v.Slot, Environment: v.Environment, PublishedAt: v.PublishedAt, Retirement: retired[fmt.Sprint(v.SecretID, v.Number)]}
			one.ByHand = offline.ByHand(v.Issuer, types[v.Issuer], one)
			of[v.SecretID] = append(of[v.SecretID], one)
		}
		for _, s := range secrets {
			def := s.Definition
			if len(of[s.ID]) > 0 {
				page = append(page, offline.Secret{Tenant: s.Ref.Tenant, Name: s.Ref.Name, Labels: def.Labels, Current: s.Current, Last: s.LastVersion,
					Backend: def.Backend, Mirrors: def.Mirrors, Consumers: def.Consumers, Versions: of[s.ID]})
			}
		}
		return nil
	})
	return page, next, err
}

// consumersOf are those of a configuration, by where they are: a URL may carry a token.
func consumersOf(cfg *config.Config) (out []offline.Consumer) {
	for _, c := range cfg.Consumers {
		one := offline.Consumer{Name: c.Name, Tenant: c.Tenant, Kind: "webhook", Role: c.Role}
		if c.Inbox {
			one.Kind = "inbox"
		} else if u, err := url.Parse(c.Endpoint.URL); err == nil {
			one.Where = u.Scheme + "://" + u.Host
		}
		out = append(out, one)
	}
	return out
}

// issuersOf are those of a configuration with what they take from around it. What the
// broker itself manages is never among it.
func issuersOf(cfg *config.Config) (out []offline.Issuer) {
	for _, i := range cfg.Issuers {
		one := offline.Issuer{Name: i.Name, Type: i.Type, Tenant: i.Tenant, Source: i.Text(), Digest: i.Written()}
		for _, r := range i.References() {
			one.Managed = append(one.Managed, r.Ref.String())
		}
		if len(one.Managed) == 0 && !cfg.OfflineKit.NoCredentials {
			one.Material, one.Problem = materialOf(one.Source, cfg.OfflineKit)
		}
		out = append(out, one)
	}
	return out
}

// materialOf reads a block once more, and notes what it takes from around it.
func materialOf(source string, kit *config.OfflineKit) (m offline.Material, problem string) {
	m = offline.Material{Env: map[string]string{}, Files: map[string][]byte{}}
	_, diags := config.Parse(map[string][]byte{blockFile: []byte(source)}, Registry(), config.Options{Dir: kit.Dir,
		LookupEnv: func(name string) (string, bool) {
			text, ok := kit.LookupEnv(name)
			if ok {
				m.Env[name] = text
			}
			return text, ok
		},
		Place: func(path string) string {
			at := path
			if !filepath.IsAbs(at) {
				at = filepath.Join(kit.Dir, path)
			}
			if info, err := os.Stat(at); err == nil && info.Mode().IsRegular() && info.Size() <= kitFile {
				if content, err := os.ReadFile(at); err == nil {
					m.Files[path] = content
				}
			}
			return at
		}})
	if diags.HasErrors() {
		return m, textOf(diags)
	}
	return m, ""
}

// blockFile is what the block of a kit is called in messages about it.
const blockFile = "issuer.hcl"

func textOf(diags *config.Diagnostics) string {
	var text bytes.Buffer
	_ = diags.WriteText(&text, false) // into memory
	return text.String()
}
