package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// PlanRequest is what a server is told of a configuration to compare it with its own.
// It needs neither env() nor file(), and has no secret. Its error names every secret that
// cannot be rotated as is asked.
func PlanRequest(cfg *config.Config) (client.ConfigPlanRequest, error) {
	r := client.ConfigPlanRequest{Secrets: []client.PlannedSecret{}, Blocks: writtenBlocks(cfg), Node: restartSettings(cfg)}
	var errs []error
	for _, s := range cfg.Secrets {
		def, err := cfg.Definition(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		text, err := json.Marshal(def)
		if err != nil {
			return r, err
		}
		r.Secrets = append(r.Secrets, client.PlannedSecret{Name: s.Ref.Name, Tenant: s.Ref.Tenant, Definition: text})
	}
	return r, errors.Join(errs...)
}

// writtenBlocks lists the blocks of a configuration with digests of what is written in
// them: the same wherever it was read.
func writtenBlocks(cfg *config.Config) []client.PlannedBlock {
	out := []client.PlannedBlock{}
	named := func(kind string, n config.Named) {
		out = append(out, client.PlannedBlock{Kind: kind, Name: n.Name, Type: n.Type, Digest: n.Written()})
	}
	plain := func(kind, name string, content ...any) {
		text, _ := json.Marshal(content) // settings and names cannot fail
		sum := sha256.Sum256(text)
		out = append(out, client.PlannedBlock{Kind: kind, Name: name, Digest: hex.EncodeToString(sum[:])})
	}
	for _, b := range cfg.Backends {
		named("backend", b.Named)
	}
	for _, i := range cfg.Issuers {
		named("issuer", i.Named)
	}
	for _, b := range cfg.Probes {
		named("probe", b.Named)
	}
	for _, k := range cfg.Consumers {
		out = append(out, client.PlannedBlock{Kind: "consumer", Name: k.Name, Digest: k.Written()})
	}
	for _, r := range cfg.RotationPolicies {
		plain("rotation_policy", r.Name, r)
	}
	for _, a := range cfg.Policies {
		plain("policy", a.Name, a)
	}
	for _, t := range cfg.Triggers {
		named("trigger", t.Named)
	}
	for _, t := range cfg.Tenants {
		plain("tenant", t.Name, t.Limit)
	}
	for _, r := range cfg.Roles {
		plain("role", r.Name, r.Role)
	}
	for _, a := range cfg.Auths {
		named("auth", a.Named)
	}
	for _, a := range cfg.AuditSinks {
		named("audit", a.Named)
	}
	for _, n := range cfg.Notifiers {
		named("notifier", n.Named)
	}
	for _, a := range cfg.Alerts {
		plain("alert", a.Name, a.Tenant, a.Notifier, a.On, a.Repeat, a.Escalate, a.Heartbeat)
	}
	return out
}

// restartSettings are those that take a restart, as far as they are the same wherever
// the configuration is read: paths are not.
func restartSettings(cfg *config.Config) map[string]string {
	var seals []string
	for _, s := range cfg.Seals {
		seals = append(seals, s.Type)
	}
	return map[string]string{
		"listener.address":       cfg.Listener.Address,
		"telemetry.address":      cfg.Telemetry.Address,
		"telemetry.prometheus":   fmt.Sprint(cfg.Telemetry.Prometheus),
		"telemetry.secret_names": fmt.Sprint(cfg.Telemetry.SecretNames),
		"storage":                string(cfg.Storage.Type),
		"seal":                   strings.Join(seals, ", "),
	}
}

// PlanConfig implements broker.Node.
func (n asNode) PlanConfig(ctx context.Context, r client.ConfigPlanRequest) (client.ConfigPlan, error) {
	out := client.ConfigPlan{At: now(), Changes: []client.PlannedChange{}, Refused: []client.ConfigFinding{}, Warnings: []client.ConfigFinding{}}
	defs, err := readPlanned(r.Secrets)
	if err != nil {
		return out, err
	}
	before := n.d.setup.Load().cfg
	changes, err := n.d.reconciler().compare(ctx, defs)
	if err != nil {
		return out, err
	}
	was, has := shapeOf(before), plannedShape(r, defs, before)
	out.Refused = append(out.Refused, restarts(restartSettings(before), r.Node)...)
	err = n.d.db.View(ctx, func(tx *store.Tx) error {
		wants, err := underWay(ctx, tx)
		if err != nil {
			return err
		}
		refused, lacking := wants.judgeShapes(was, has)
		out.Refused = append(out.Refused, refused...)
		warnings, err := wants.slightedBy(ctx, tx, before, was, has)
		if err != nil {
			return err
		}
		out.Warnings = append(append(out.Warnings, lacking...), warnings...)
		for _, c := range changes {
			p, err := planned(ctx, tx, c, has, out.At)
			if err != nil {
				return err
			}
			out.Changes = append(out.Changes, p)
		}
		return nil
	})
	out.Changes = append(out.Changes, changedWriting(writtenBlocks(before), r.Blocks)...)
	return out, err
}

// readPlanned reads the definitions of a request.
func readPlanned(secrets []client.PlannedSecret) ([]defined, error) {
	var defs []defined
	seen := map[backends.Ref]bool{}
	for _, s := range secrets {
		ref := backends.Ref{Tenant: s.Tenant, Name: s.Name}
		if err := backends.ParseName(s.Name); err != nil {
			return nil, err
		}
		if s.Tenant == "" || seen[ref] {
			return nil, fmt.Errorf("%w: the secret %s is there twice, or of no tenant", backends.ErrInvalid, ref)
		}
		seen[ref] = true
		var def rotation.Definition
		if err := json.Unmarshal(s.Definition, &def); err != nil {
			return nil, fmt.Errorf("%w: the definition of %s cannot be read: is the command of the same version as the server?", backends.ErrInvalid, ref)
		}
		defs = append(defs, defined{ref, def})
	}
	return defs, nil
}

func plannedShape(r client.ConfigPlanRequest, defs []defined, before *config.Config) shape {
	out := shape{types: map[block]string{}, claims: map[config.Claim]string{}}
	for _, b := range r.Blocks {
		switch b.Kind {
		case "backend", "issuer", "probe", "consumer":
			out.types[block{b.Kind, b.Name}] = b.Type
		}
		if b.Kind == "consumer" {
			out.consumers = append(out.consumers, b.Name)
		}
	}
	for _, d := range defs {
		out.types[block{client.KindSecret, d.ref.String()}] = ""
		out.secrets = append(out.secrets, holding{d.ref.String(), append([]string{d.def.Backend}, d.def.Mirrors...)})
		out.claim(before, d.ref.String(), d.def.Issuer, d.def.Settings)
	}
	return out
}

// restarts tells what takes a restart.
func restarts(now, next map[string]string) []client.ConfigFinding {
	var out []client.ConfigFinding
	for _, name := range slices.Sorted(maps.Keys(next)) {
		if have, known := now[name]; known && have != next[name] {
			out = append(out, client.ConfigFinding{What: fmt.Sprintf("%s was changed from %q to %q, which takes a restart", name, have, next[name]), Remedy: "put it back, or restart the server"})
		}
	}
	return out
}

// changedWriting tells which blocks are written otherwise, by kind and name.
func changedWriting(was, is []client.PlannedBlock) []client.PlannedChange {
	before, after := map[block]client.PlannedBlock{}, map[block]client.PlannedBlock{}
	for _, b := range was {
		before[block{b.Kind, b.Name}] = b
	}
	for _, b := range is {
		after[block{b.Kind, b.Name}] = b
	}
	var out []client.PlannedChange
	add := func(change string, b block, settings ...client.SettingChange) {
		out = append(out, client.PlannedChange{ConfigChange: client.ConfigChange{Change: change, Kind: b.kind, Name: b.name}, Settings: settings})
	}
	for b, now := range after {
		switch had, ok := before[b]; {
		case !ok:
			add(client.Added, b)
		case had.Type != now.Type:
			add(client.Changed, b, client.SettingChange{Name: "type", From: had.Type, To: now.Type})
		case had.Digest != now.Digest:
			add(client.Changed, b)
		}
	}
	for b := range before {
		if _, ok := after[b]; !ok {
			add(client.Removed, b)
		}
	}
	slices.SortFunc(out, func(a, b client.PlannedChange) int { return strings.Compare(a.Kind+" "+a.Name, b.Kind+" "+b.Name) })
	return out
}

// planned tells what becomes of one secret under a configuration that has these blocks,
// and what comes next of that.
func planned(ctx context.Context, tx *store.Tx, c change, has shape, at time.Time) (client.PlannedChange, error) {
	out := client.PlannedChange{ConfigChange: client.ConfigChange{Change: c.kind, Kind: client.KindSecret, Name: c.ref.String()}, DueFrom: c.was.NextDueAt}
	say := func(format string, args ...any) { out.Effects = append(out.Effects, fmt.Sprintf(format, args...)) }
	if c.kind == client.Unmanaged {
		say("it stays as it is and is rotated no more")
		if c.was.Current > 0 {
			say("version %d stays valid, and readable", c.was.Current)
		}
		return out, nil
	}
	if c.kind == client.Changed {
		out.Settings = broker.ChangedSettings(c.was.Definition, c.def)
	}
	due, err := dueUnder(ctx, tx, c, at)
	if err != nil {
		return out, err
	}
	out.DueTo = due
	switch current := c.was.Current; {
	case current == 0 && c.def.Issuer == "":
		say("it has no issuer: `keybroker secret import %s` takes over what is in its vault", qualified(c.ref))
	case current == 0 && !due.IsZero():
		say("its first version is minted at once")
	case current == 0:
		say("nothing happens by itself: `keybroker secret rotate %s` makes its first version", qualified(c.ref))
	case c.kind == client.Added:
		say("it is managed again, with version %d as the current one", current)
	default:
		moved(c, has, say)
	}
	return out, underWayOf(ctx, tx, c, say)
}

// dueUnder is when a secret is due under its new definition; zero: never by itself.
// What is paused stays due as it was.
func dueUnder(ctx context.Context, tx *store.Tx, c change, at time.Time) (time.Time, error) {
	if c.kind == client.Changed && !reschedules(c.was.Definition, c.def) {
		return c.was.NextDueAt, nil
	}
	if c.def.Issuer == "" {
		return time.Time{}, nil
	}
	current := rotation.Version{SecretID: c.was.ID}
	if c.was.Current > 0 {
		var err error
		if current, err = tx.Version(ctx, c.was.ID, c.was.Current); err != nil {
			return time.Time{}, err
		}
	}
	due, err := rotation.NextDue(c.def, current, at)
	if err != nil {
		return time.Time{}, fmt.Errorf("scheduling %s: %w", c.ref, err)
	}
	return due.At, nil
}

// reschedules tells whether one of the settings changed that say when a secret is due, or
// when consumers are told of that.
func reschedules(was, is rotation.Definition) bool {
	return was.Schedule != is.Schedule || was.TimeZone != is.TimeZone || was.Jitter != is.Jitter || was.Window != is.Window ||
		was.MaxAge != is.MaxAge || was.MinInterval != is.MinInterval || was.Plan.Overlap != is.Plan.Overlap || was.Issuer != is.Issuer
}

// qualified names a secret for a command.
func qualified(ref backends.Ref) string {
	if ref.Tenant == backends.DefaultTenant {
		return ref.Name
	}
	return ref.String()
}

// moved tells what follows from other vaults, issuers and probes.
func moved(c change, has shape, say func(string, ...any)) {
	was, is := c.was.Definition, c.def
	if was.Issuer != is.Issuer && was.Issuer != "" {
		_, stays := has.types[block{"issuer", was.Issuer}]
		reissued(c.was.Current, was.Issuer, is.Issuer, stays, say)
	}
	if was.Backend != is.Backend {
		say("the next version is written to %q; version %d stays in %q", is.Backend, c.was.Current, was.Backend)
	}
	for _, m := range is.Mirrors {
		if !slices.Contains(was.Mirrors, m) {
			say("%q is given version %d now", m, c.was.Current)
		}
	}
	for _, name := range is.Consumers {
		if !slices.Contains(was.Consumers, name) {
			say("consumer %q is told of the next version", name)
		}
	}
}

// reissued tells who mints the next version and who turns the current one off, once a
// secret has another issuer or none; stays: the one before is still there.
func reissued(current int, before, after string, stays bool, say func(string, ...any)) {
	if after != "" {
		say("the next version is minted by %q", after)
	} else {
		say("it has no issuer any more, and is rotated no more: version %d stays valid, and readable", current)
	}
	switch {
	case !stays:
		say("nothing can turn version %d off any more: its issuer %q is not in the configuration", current, before)
	case after != "":
		say("version %d is turned off by %q when it is replaced", current, before)
	default:
		say("in an emergency version %d is turned off by %q, and nothing replaces it", current, before)
	}
}

// underWayOf tells what becomes of what is under way.
func underWayOf(ctx context.Context, tx *store.Tx, c change, say func(string, ...any)) error {
	if c.was.ID == "" {
		return nil
	}
	live, err := tx.LiveRotations(ctx, c.was.ID)
	if err != nil {
		return err
	}
	for i := range live {
		if c.kind != client.Unmanaged && live[i].State != rotation.Retiring {
			say("rotation %s, which %s, is finished under the definition that it began with", live[i].ID, stateText(&live[i]))
		}
	}
	return nil
}
