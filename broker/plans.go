package broker

import (
	"context"
	"strings"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// Origins are where the configuration in force says how one secret rotates.
type Origins struct {
	Policy   string                    // the rotation policy that applies
	Settings map[string]client.Setting // by name, without values; of what is not there nobody says anything
	Limits   []client.Limit
}

// upcoming is how many rotations are told ahead.
const upcoming = 10

// EffectivePlans lists how the secrets rotate that p may see.
func (b *Broker) EffectivePlans(ctx context.Context, p authn.Principal, q client.SecretQuery) (client.List[client.Effective], error) {
	list := client.List[client.Effective]{Items: []client.Effective{}}
	const action = "plan.list"
	err := b.serve(ctx, p, request{action: action, path: q.Prefix}, itemwise, func() (map[string]string, error) {
		at, err := b.Pages.open(p, action, q.Page)
		if err != nil {
			return nil, err
		}
		return nil, b.Store.View(ctx, func(tx *store.Tx) error {
			found, next, err := tx.Secrets(ctx, store.SecretFilter{Tenant: p.Tenant, Prefix: q.Prefix}, at)
			if err != nil {
				return err
			}
			list.Items, list.Next = list.Items[:0], b.Pages.next(p, action, next)
			for _, s := range found {
				may, err := b.sight(ctx, tx, p, s)
				if err != nil {
					return err
				}
				if !may.sees {
					continue
				}
				e, err := b.effective(ctx, tx, p, s)
				if err != nil {
					return err
				}
				list.Items = append(list.Items, e)
			}
			return nil
		})
	})
	return list, err
}

// effective tells how a secret rotates. What is in force is its definition; where that
// was said is the configuration's to tell, if it has a block of it. Who is bound to a
// tenant is not told of files.
func (b *Broker) effective(ctx context.Context, tx *store.Tx, p authn.Principal, s rotation.Secret) (client.Effective, error) {
	d := s.Definition
	out := client.Effective{Secret: s.Ref.Name, Tenant: s.Ref.Tenant, Policy: d.Policy, Settings: SettingsOf(d), Limits: []client.Limit{}, Upcoming: []client.Due{}}
	from, known := b.Node.Origins(s.Ref)
	known = known && s.State != rotation.SecretUnmanaged
	if known {
		out.Limits = append(out.Limits, from.Limits...)
	}
	for i := range out.Settings {
		said := &out.Settings[i]
		if !known {
			said.From = client.FromDefinition
			continue
		}
		where, ok := from.Settings[said.Name]
		if said.From = client.FromDefault; ok {
			said.From, said.Policy, said.File, said.Line = where.From, where.Policy, where.File, where.Line
		}
	}
	declared(out.Settings, d)
	if wallsOf(p) != (policy.Walls{}) {
		for i := range out.Settings {
			out.Settings[i].File, out.Settings[i].Line = "", 0
		}
		for i := range out.Limits {
			out.Limits[i].File, out.Limits[i].Line = "", 0
		}
	}
	if s.State != rotation.SecretActive || d.Issuer == "" {
		return out, nil
	}
	current, err := currentOf(ctx, tx, s)
	for _, one := range rotation.Forecast(d, current, b.Now(), upcoming) {
		due := client.Due{At: utc(one.At), BeginsAt: utc(one.Begins), Why: string(one.Why)}
		if d.NoticeBefore > 0 && len(d.Consumers) > 0 {
			due.NoticeAt = utc(one.At.Add(-d.NoticeBefore))
		}
		out.Upcoming = append(out.Upcoming, due)
	}
	return out, err
}

// declared marks what nobody says and the issuer has filled in.
func declared(all []client.Setting, d rotation.Definition) {
	for i := range all {
		s := &all[i]
		byIssuer := s.Name == "confirm.budget" || s.Name == "confirm.window" && d.Plan.Confirm.Budget > 0 || strings.HasPrefix(s.Name, "key.") && s.Value != "" && s.Value != "false"
		if byIssuer && s.From == client.FromDefault {
			s.From = client.FromIssuer
		}
	}
}

// currentOf reads the current version, or gives one of number 0.
func currentOf(ctx context.Context, tx *store.Tx, s rotation.Secret) (rotation.Version, error) {
	if s.Current == 0 {
		return rotation.Version{SecretID: s.ID}, nil
	}
	return tx.Version(ctx, s.ID, s.Current)
}

// PlanConfig tells what another configuration would do. The configuration is
// everybody's: who is bound to a tenant is told nothing.
func (b *Broker) PlanConfig(ctx context.Context, p authn.Principal, r client.ConfigPlanRequest) (out client.ConfigPlan, err error) {
	err = b.do(ctx, p, policy.Read, request{action: "config.plan", path: configPath}, func() error {
		out, err = b.Node.PlanConfig(ctx, r)
		return err
	})
	return out, err
}
