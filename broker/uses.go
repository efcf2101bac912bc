package broker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// uses is what the store knows of who uses which version of a secret, from one snapshot.
type uses struct {
	secret      rotation.Secret
	versions    []rotation.Version    // open ones, the oldest first
	retirements []rotation.Retirement // of those
	told        []rotation.Delivery   // the newest to each consumer, by consumer
	acks        map[string][]rotation.Ack
	used        []rotation.Delivery // the newest that each consumer applied or fetched
	reads       []store.ConsumerRead
}

// SecretConsumers tells who was told of a secret's current version, and who may still use
// an older one. Of versions in their overlap the issuer is asked when they were last used.
func (b *Broker) SecretConsumers(ctx context.Context, p authn.Principal, name string) (out client.SecretConsumers, err error) {
	found, r, missing := b.resolve(ctx, p, name, request{action: "secret.consumers", path: pathOf(name)})
	d, denied := b.seeing(p, r)
	if denied != nil {
		return out, b.refuse(ctx, p, r, d, denied)
	}
	err = b.serve(ctx, p, r, d, func() (map[string]string, error) {
		if missing != nil {
			return nil, missing
		}
		var u uses
		if err := b.Store.View(ctx, func(tx *store.Tx) (err error) {
			if u, err = usesOf(ctx, tx, found.ID); err != nil {
				return err
			}
			hindered, err := b.hindrances(ctx, tx)
			for i, d := range u.told {
				u.told[i] = hindered.of(d)
			}
			return err
		}); err != nil {
			return nil, err
		}
		out = u.view(b.rulesOf(p).Consumers)
		b.askUse(ctx, u, out.Old)
		return nil, nil
	})
	return out, err
}

func usesOf(ctx context.Context, tx *store.Tx, secretID string) (u uses, err error) {
	u.acks = map[string][]rotation.Ack{}
	if u.secret, err = tx.Secret(ctx, secretID); err != nil {
		return u, err
	}
	if u.versions, err = tx.Versions(ctx, secretID); err != nil {
		return u, err
	}
	if u.retirements, err = tx.Retirements(ctx, secretID); err != nil {
		return u, err
	}
	if u.told, err = tx.LatestDeliveries(ctx, secretID); err != nil {
		return u, err
	}
	for _, d := range u.told {
		if u.acks[d.ID], err = tx.Acks(ctx, d.ID); err != nil {
			return u, err
		}
	}
	if u.used, err = tx.LatestUses(ctx, secretID); err != nil {
		return u, err
	}
	u.reads, err = tx.ConsumerReads(ctx, secretID)
	return u, err
}

func (u uses) view(configured map[string]Consumer) client.SecretConsumers {
	s := u.secret
	out := client.SecretConsumers{Secret: s.Ref.Name, Tenant: s.Ref.Tenant, Version: s.Current, Generation: s.Generation,
		Require: string(s.Definition.Plan.Acknowledgement.Require), Consumers: []client.SecretConsumer{}, Old: u.old()}
	if out.Require == "" {
		out.Require = string(rotation.RequireNone)
	}
	names := slices.Clone(s.Definition.Consumers)
	for _, d := range u.told {
		names = append(names, d.Consumer)
	}
	for _, r := range u.reads {
		names = append(names, r.Consumer)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		c := u.consumer(name)
		c.Role = configured[name].Role
		if !c.Listed && !u.alive(c.Uses) && (c.LastRead == nil || !u.alive(c.LastRead.Version)) {
			continue // it has nothing to do with the secret any more
		}
		out.Consumers = append(out.Consumers, c)
		for i, v := range out.Old {
			if c.Uses == v.Version || c.LastRead != nil && c.LastRead.Version == v.Version && c.Old {
				out.Old[i].UsedBy = append(out.Old[i].UsedBy, name)
			}
		}
	}
	return out
}

// alive tells whether a version may work.
func (u uses) alive(number int) bool {
	if number == u.secret.Current {
		return number > 0
	}
	return slices.ContainsFunc(u.old(), func(v client.OldVersion) bool { return v.Version == number })
}

// old are the versions that are not current and may work, the newest first.
func (u uses) old() []client.OldVersion {
	out := []client.OldVersion{}
	for _, v := range slices.Backward(u.versions) {
		if v.Number == u.secret.Current || v.Stage == rotation.StagePending {
			continue
		}
		old := client.OldVersion{Version: v.Number, Stage: string(v.Stage), Until: utc(v.OverlapUntil), UsedBy: []string{}}
		if i := slices.IndexFunc(u.retirements, func(t rotation.Retirement) bool { return t.Version == v.Number }); i >= 0 {
			t := u.retirements[i]
			if t.Settled() {
				continue
			}
			old.Retirement, old.Until = string(t.State), time.Time{}
			old.LastUsedAt, old.LastUse = utc(t.LastUsedAt), t.LastUse
		}
		out = append(out, old)
	}
	return out
}

// consumer is how one consumer stands to the secret.
func (u uses) consumer(name string) client.SecretConsumer {
	out := client.SecretConsumer{Consumer: name, Listed: slices.Contains(u.secret.Definition.Consumers, name), Instances: []client.Instance{}}
	called := func(d rotation.Delivery) bool { return d.Consumer == name }
	if i := slices.IndexFunc(u.told, called); i >= 0 {
		d := u.told[i]
		out.DeliveryID, out.Event, out.Version, out.Generation, out.State = d.ID, string(d.Event), d.Version, d.Generation, string(d.State)
		out.Sent, out.Error, out.Wanted = d.Attempts, d.Error, max(d.Instances, 1)
		out.ReceivedAt, out.FetchedAt, out.AppliedAt = utc(d.ReceivedAt), utc(d.FetchedAt), utc(d.AppliedAt)
		if d.State == rotation.DeliveryPending {
			out.NextAttemptAt = utc(d.NextAttemptAt)
		}
		for _, a := range u.acks[d.ID] {
			if a.Applied {
				out.Instances = append(out.Instances, client.Instance{Name: a.Instance, At: utc(a.At)})
			}
		}
	}
	newest, at := 0, time.Time{} // what it is known to have used last
	if i := slices.IndexFunc(u.used, called); i >= 0 {
		d := u.used[i]
		out.Uses, newest, at = d.Version, d.Version, later(d.AppliedAt, d.FetchedAt)
	}
	for _, r := range u.reads {
		if r.Consumer != name || out.LastRead != nil && !r.LastAt.After(out.LastRead.At) {
			continue
		}
		out.LastRead = &client.LastRead{Version: r.Version, At: utc(r.LastAt)}
	}
	if r := out.LastRead; r != nil && r.At.After(at) {
		newest = r.Version
	}
	out.Old = newest != 0 && newest != u.secret.Current
	return out
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// usePatience is how long an issuer may take to say when a credential was last used.
const usePatience = 3 * time.Second

// askUse asks the issuers of versions that nobody is turning off yet when these were last
// used. What they cannot say is said instead.
func (b *Broker) askUse(ctx context.Context, u uses, old []client.OldVersion) {
	ctx, cancel := context.WithTimeout(ctx, usePatience)
	defer cancel()
	for i := range old {
		at := slices.IndexFunc(u.versions, func(v rotation.Version) bool { return v.Number == old[i].Version })
		if v := u.versions[at]; old[i].Retirement == "" && v.Handle != nil {
			old[i].LastUsedAt, old[i].LastUse = b.lastUse(ctx, u.secret, v)
		}
	}
}

func (b *Broker) lastUse(ctx context.Context, s rotation.Secret, v rotation.Version) (time.Time, string) {
	for _, c := range b.Components.Issuers() {
		reporter, knows := c.Works.(issuer.UseReporter)
		if c.Name != v.Issuer || c.State == client.ComponentMissing || !knows {
			continue
		}
		use, err := reporter.LastUsed(ctx, issuer.Subject{Ref: s.Ref, Labels: s.Definition.Labels, Settings: v.Settings}, v.Handle)
		switch {
		case err != nil:
			b.Logger.Warn("an issuer does not say when a version was last used", "issuer", c.Name, "secret", s.Ref, "version", v.Number, "error", err)
			return time.Time{}, fmt.Sprintf("its issuer does not say (%s)", classOf(err))
		case use.At.IsZero():
			return time.Time{}, "never, as far as its issuer knows"
		}
		return utc(use.At), use.Where
	}
	return time.Time{}, ""
}
