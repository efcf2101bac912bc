package broker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// readBy returns the versions, by the ids of their secrets, that were given to who: a role,
// an identity (METHOD/SUBJECT) or a token, by its id; or to an address or network; or to
// who there. Since leaves out what was read last before that, as far as it is known to the
// minute. What the consumers of a role were sent was given to it, whether or not they
// answered: an attempt is recorded before it is made. Where to, nobody keeps. ErrInvalid
// if the address is none.
func (b *Broker) readBy(ctx context.Context, tx *store.Tx, p authn.Principal, who, address string, since time.Time) (map[string][]int, error) {
	by := store.ReadFilter{Tenant: p.Tenant, Who: who}
	if !since.IsZero() {
		by.Since = since.Add(-noteEvery) // later reads of the minute are not noted
	}
	if address != "" {
		network, err := parseNetwork(address)
		if err != nil {
			return nil, err
		}
		by.Network = network
	}
	versions, err := tx.ReadBy(ctx, by)
	if err != nil || address != "" {
		return versions, err
	}
	for name, k := range b.rulesOf(p).Consumers {
		if k.Role == "" || k.Role != who || p.Tenant != "" && p.Tenant != k.Tenant {
			continue
		}
		err := tx.ToldTo(ctx, name, func(t store.Told) {
			if (t.At.IsZero() || !t.At.Before(since)) && !slices.Contains(versions[t.SecretID], t.Version) {
				versions[t.SecretID] = append(versions[t.SecretID], t.Version)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return versions, nil
}

// parseNetwork reads an address, or a network such as 10.0.0.0/8.
func parseNetwork(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	n, err := netip.ParsePrefix(text)
	if err != nil || n != n.Masked() || n.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%w: %q is no address, and no network such as 10.0.0.0/8", backends.ErrInvalid, text)
	}
	return n, nil
}

// accesses returns who was given a version, the latest first, at most limit: by reading it,
// and by deliveries. Whether the caller sees the secret was asked before.
func (b *Broker) accesses(ctx context.Context, tx *store.Tx, s rotation.Secret, version, limit int) ([]client.Access, error) {
	read, err := tx.Reads(ctx, s.ID, version, limit)
	if err != nil {
		return nil, err
	}
	told, err := tx.ToldOf(ctx, s.ID, version)
	if err != nil {
		return nil, err
	}
	of := client.Access{Secret: s.Ref.Name, Tenant: s.Ref.Tenant, Version: version}
	var out []client.Access
	for _, r := range read {
		a := of
		a.Role, a.Actor, a.FirstAt, a.LastAt = r.Role, r.Actor, utc(r.FirstAt), utc(r.LastAt)
		if strings.Contains(r.Who, "/") { // ids of tokens have none
			a.Identity = r.Who
		}
		if r.Address.IsValid() {
			a.Address = r.Address.String()
		}
		out = append(out, a)
	}
	configured := b.rulesOf(authn.Principal{}).Consumers
	for _, t := range told {
		k := configured[t.Consumer]
		a := of
		a.Consumer, a.Role, a.Actor, a.FirstAt, a.LastAt = t.Consumer, k.Role, "keybroker", utc(t.At), utc(t.At)
		if t.At.IsZero() {
			a.FirstAt, a.LastAt, a.Unanswered = utc(t.SentAt), utc(t.SentAt), !k.Inbox
		}
		out = append(out, a)
	}
	slices.SortStableFunc(out, func(x, y client.Access) int { return y.LastAt.Compare(x.LastAt) })
	return out[:min(len(out), limit)], nil
}
