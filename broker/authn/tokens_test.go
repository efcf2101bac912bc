package authn_test

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
)

var admin = policy.Role{Name: "admin", Policies: []string{"root"}}

func TestATokenIsItsRolesAsItIsNow(t *testing.T) {
	role := policy.Role{Name: "app", Tenant: "acme", Environment: "production", Policies: []string{"reader"}, CIDRs: []netip.Prefix{inner}, Limit: policy.Limit{RequestsPerMinute: 5}}
	o := newOffice(t, role)
	root := o.root()
	_, text := o.make(root, authn.Wanted{Role: "app"})

	p := o.holder(text)
	if p.Role != "app" || p.Tenant != "acme" || p.Environment != "production" || !reflect.DeepEqual(p.Policies, []string{"reader"}) ||
		p.Limit.RequestsPerMinute != 5 || p.Method != authn.MethodToken || p.Address != here || p.Request != "req" || p.Name != "test" || !p.HasToken() {
		t.Errorf("its holder is %+v", p)
	}
	if got := o.why(text, there); got != "the token is bound to other addresses" {
		t.Errorf("from elsewhere: %q", got)
	}
	if got := o.why(text, netip.Addr{}); got == "" {
		t.Error("from no address at all it is accepted")
	}
	if p, err := o.show(text, netip.MustParseAddr("::ffff:10.9.9.9")); err != nil || p.Role != "app" {
		t.Errorf("from an IPv4 address in IPv6: %v", err)
	}
	before := o.Rules()
	role.Policies, role.CIDRs, role.Limit = []string{"writer"}, nil, policy.Limit{RequestsPerMinute: 6}
	o.rules(role)
	if again, err := o.Again(t.Context(), p); err != nil || !reflect.DeepEqual(again.Policies, []string{"writer"}) || again.Limit.RequestsPerMinute != 6 ||
		again.ID != p.ID || again.Lineage != p.Lineage || again.Address != here || again.Request != "req" || o.RulesOf(again) != o.Rules() {
		t.Errorf("its holder is by now %+v (%v)", again, err)
	}
	if !reflect.DeepEqual(p.Policies, []string{"reader"}) || o.RulesOf(p) != before || before == o.Rules() {
		t.Error("who was found out by other rules is no more measured by them")
	}
	if p, err := o.show(text, there); err != nil || !reflect.DeepEqual(p.Policies, []string{"writer"}) {
		t.Errorf("after a reload: %v, %v", p.Policies, err)
	}
	for why, change := range map[string]func(*policy.Role){
		"the token's role is of another tenant or environment": func(r *policy.Role) { r.Tenant = "globex" },
		"the token's role is not in the configuration":         func(r *policy.Role) { r.Name = "other" },
	} {
		changed := role
		change(&changed)
		o.rules(changed)
		if got := o.why(text, here); got != why {
			t.Errorf("%q, want %q", got, why)
		}
		if _, err := o.Again(t.Context(), p); !errors.Is(err, backends.ErrDenied) {
			t.Errorf("%s: it goes on: %v", why, err)
		}
	}
	role.Tenant, role.Environment = "", ""
	o.rules(role)
	if p := o.holder(text); p.Tenant != "acme" || p.Environment != "production" {
		t.Errorf("the role lost its walls, and so did the token: %q, %q", p.Tenant, p.Environment)
	}
}

func TestHowTokensEnd(t *testing.T) {
	role := policy.Role{Name: "app", Policies: []string{"reader"}, TokenTTL: time.Hour, TokenMaxTTL: 3 * time.Hour, TokenIdle: 30 * time.Minute}
	for what, tt := range map[string]struct {
		wanted authn.Wanted
		used   []time.Duration // when it is used, successfully
		ends   time.Duration   // when it is refused
		why    string
		at     time.Duration // just before, it is accepted
	}{
		"unused by default": {authn.Wanted{Policies: []string{"reader"}}, nil, 24*time.Hour + time.Minute, "token unused for too long", 24 * time.Hour},
		"unused after use": {authn.Wanted{Policies: []string{"reader"}}, []time.Duration{20 * time.Hour}, 44*time.Hour + time.Minute, "token unused for too long",
			44 * time.Hour},
		"its ttl":     {authn.Wanted{Policies: []string{"reader"}, TTL: time.Hour}, nil, time.Hour, "expired token", time.Hour - time.Second},
		"the role's":  {authn.Wanted{Role: "app"}, []time.Duration{20 * time.Minute, 40 * time.Minute}, time.Hour, "expired token", time.Hour - time.Second},
		"its own":     {authn.Wanted{Role: "app", TTL: 10 * time.Minute}, nil, 10 * time.Minute, "expired token", 9 * time.Minute},
		"role's idle": {authn.Wanted{Role: "app"}, nil, 31 * time.Minute, "token unused for too long", 30 * time.Minute},
		"break glass, asked to": {authn.Wanted{Role: "app", BreakGlass: true, TTL: time.Hour}, nil, time.Hour, "expired token",
			time.Hour - time.Second},
		"its idle": {authn.Wanted{Policies: []string{"reader"}, Idle: time.Minute}, nil, 2 * time.Minute, "token unused for too long", 119 * time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			o := newOffice(t, role)
			rec, text := o.make(o.root(), tt.wanted)
			for _, at := range tt.used {
				o.clock = began.Add(at)
				o.holder(text)
			}
			o.clock = began.Add(tt.ends)
			if got := o.why(text, here); got != tt.why {
				t.Errorf("after %s: %q, want %q", tt.ends, got, tt.why)
			}
			if last := o.log.last(); last.Action != "auth.token" || last.Outcome != "denied" || last.Actor != rec.ID || last.Address != here.String() || last.Request != "req" {
				t.Errorf("audited: %+v", last)
			}
			o.clock = began.Add(tt.at)
			if got := o.why(text, here); got != "" {
				t.Errorf("after %s: %q", tt.at, got)
			}
		})
	}
}

func TestBreakGlassNeverEndsAndIsNoticed(t *testing.T) {
	role := policy.Role{Name: "on-call", Policies: []string{"responder"}, TokenTTL: time.Hour, TokenIdle: time.Hour, TokenUses: 1}
	o := newOffice(t, role)
	maker := o.root()
	rec, text := o.make(maker, authn.Wanted{Role: "on-call", BreakGlass: true})
	o.update(func(tx *store.Tx) error { return tx.RevokeToken(t.Context(), maker.ID, o.clock) })
	o.clock = began.Add(10000 * time.Hour)
	for range 2 {
		p := o.holder(text)
		if p.Method != authn.MethodBreakGlass || p.Role != "on-call" {
			t.Fatalf("%+v", p)
		}
		o.clock = o.clock.Add(time.Second)
	}
	var alerts []store.Alert
	if err := o.db.View(t.Context(), func(tx *store.Tx) (err error) {
		alerts, _, err = tx.AlertsPage(t.Context(), store.AlertFilter{}, store.Page{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(alerts) != 1 || alerts[0].Kind != alert.BreakGlass || alerts[0].Subject != rec.ID || alerts[0].Count != 2 {
		t.Errorf("alerts: %+v", alerts)
	}
}

func TestTheLastUseIsNotTakenTwice(t *testing.T) {
	o := newOffice(t)
	_, text := o.make(o.root(), authn.Wanted{Policies: []string{"reader"}, Uses: 3})
	var accepted atomic.Int32
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := o.show(text, netip.Addr{}); err == nil {
				accepted.Add(1)
			} else if !errors.Is(err, backends.ErrDenied) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if accepted.Load() != 3 {
		t.Errorf("%d of 3 uses were given", accepted.Load())
	}
	if got := o.why(text, here); got != "the token has no use left" {
		t.Errorf("why: %q", got)
	}
}

func TestAStreamOutlivesTheLastUse(t *testing.T) {
	o := newOffice(t)
	rec, text := o.make(o.root(), authn.Wanted{Policies: []string{"reader"}, Uses: 1})
	p := o.holder(text)
	if _, err := o.Again(t.Context(), p); err != nil {
		t.Error(err)
	}
	for range 50 { // it is in use all the time
		o.clock = o.clock.Add(time.Hour)
		if _, err := o.Again(t.Context(), p); err != nil {
			t.Fatalf("after %s: %v", o.clock.Sub(began), err)
		}
	}
	p.Address = there
	o.update(func(tx *store.Tx) error { return tx.RevokeToken(t.Context(), rec.ID, o.clock) })
	if _, err := o.Again(t.Context(), p); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("after it was revoked: %v", err)
	}
	p.ID = "tok_none"
	if _, err := o.Again(t.Context(), p); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("although it is gone: %v", err)
	}
}

// TestAChildDiesWithItsParents ends one of a line in each way.
func TestAChildDiesWithItsParents(t *testing.T) {
	for what, end := range map[string]func(o *office, tx *store.Tx, id string) error{
		"revoked": func(o *office, tx *store.Tx, id string) error { return tx.RevokeToken(o.t.Context(), id, o.clock) },
		"expired": func(o *office, tx *store.Tx, id string) error { return tx.RenewToken(o.t.Context(), id, o.clock) },
		"gone": func(o *office, tx *store.Tx, id string) error {
			return errors.Join(tx.RevokeToken(o.t.Context(), id, o.clock), tx.PruneTokens(o.t.Context(), o.clock.Add(time.Second)))
		},
	} {
		for _, which := range []int{0, 1} {
			o := newOffice(t)
			root := o.root()
			first, text := o.make(root, authn.Wanted{Policies: []string{"reader", "writer"}, TTL: 40 * time.Minute})
			second, text := o.make(o.holder(text), authn.Wanted{Policies: []string{"reader"}})
			third, text := o.make(o.holder(text), authn.Wanted{Policies: []string{"reader"}})
			if first.Parent != "" || second.Parent != first.ID || third.Parent != second.ID || third.Lineage != first.Lineage || !strings.HasPrefix(first.Lineage, root.Lineage+"/") {
				t.Fatalf("the line is %q %q, %q %q, %q %q", first.Parent, first.Lineage, second.Parent, second.Lineage, third.Parent, third.Lineage)
			}
			if !third.ExpiresAt.Equal(first.ExpiresAt) {
				t.Errorf("it expires %s, the first of its line %s", third.ExpiresAt, first.ExpiresAt)
			}
			p := o.holder(text)
			if len(p.Within) != 2 || p.Within[0].ID != second.ID || p.Within[1].ID != first.ID || len(p.Within[1].Policies) != 2 || p.Within[0].Address != here {
				t.Errorf("it is within %+v", p.Within)
			}
			o.update(func(tx *store.Tx) error { return end(o, tx, []string{first.ID, second.ID}[which]) })
			if got := o.why(text, here); got != "a token that it descends from has ended" {
				t.Errorf("%d %s: %q", which, what, got)
			}
			if _, err := o.Again(t.Context(), p); !errors.Is(err, backends.ErrDenied) {
				t.Errorf("%d %s: it goes on: %v", which, what, err)
			}
			if err := o.db.View(t.Context(), func(tx *store.Tx) error {
				state, err := o.State(t.Context(), tx, third)
				if state != authn.StateParentEnded {
					t.Errorf("%d %s: its state is %s", which, what, state)
				}
				return err
			}); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestTheUseOfAChildIsItsParents(t *testing.T) {
	o := newOffice(t)
	_, text := o.make(o.root(), authn.Wanted{Policies: []string{"reader"}})
	parent := text
	_, text = o.make(o.holder(text), authn.Wanted{Policies: []string{"reader"}})
	for range 5 {
		o.clock = o.clock.Add(20 * time.Hour)
		o.holder(text)
	}
	o.holder(parent)
}

func TestNobodyHandsOutWhatTheyDoNotHold(t *testing.T) {
	o := newOffice(t, admin,
		policy.Role{Name: "acme", Tenant: "acme", Policies: []string{"reader"}},
		policy.Role{Name: "acme-staging", Tenant: "acme", Environment: "staging", Policies: []string{"reader"}},
		policy.Role{Name: "globex", Tenant: "globex", Policies: []string{"reader"}},
		policy.Role{Name: "free", Policies: []string{"reader"}},
		policy.Role{Name: "wide", Tenant: "acme", Policies: []string{"reader", "writer"}},
		policy.Role{Name: "short", Policies: []string{"reader"}, TokenMaxTTL: time.Hour, TokenIdle: time.Hour, TokenUses: 5})
	root := o.root()
	as := func(w authn.Wanted) authn.Principal { _, text := o.make(root, w); return o.holder(text) }
	reader := []string{"reader"}
	plain, bound, staging := as(authn.Wanted{Policies: reader}), as(authn.Wanted{Role: "acme"}), as(authn.Wanted{Role: "acme-staging"})
	brief, once, cidr := as(authn.Wanted{Policies: reader, TTL: time.Minute}), as(authn.Wanted{Policies: reader, Uses: 2}), as(authn.Wanted{Policies: reader, CIDRs: []netip.Prefix{inner}})
	deep := plain
	for range 7 {
		_, text := o.make(deep, authn.Wanted{Policies: reader})
		deep = o.holder(text)
	}
	for what, tt := range map[string]struct {
		maker authn.Principal
		w     authn.Wanted
		want  error
		text  string
	}{
		"a policy of others":               {plain, authn.Wanted{Policies: []string{"reader", "writer"}}, backends.ErrDenied, `"writer" is not one of the caller's own`},
		"root":                             {plain, authn.Wanted{Policies: []string{"root"}}, backends.ErrDenied, "not one of"},
		"a role with a policy of others":   {bound, authn.Wanted{Role: "wide"}, backends.ErrDenied, `"writer" is not one of`},
		"a role of another tenant":         {bound, authn.Wanted{Role: "globex"}, backends.ErrInvalid, "no role"},
		"a role of no tenant":              {bound, authn.Wanted{Role: "free"}, backends.ErrInvalid, "no role"},
		"no environment":                   {staging, authn.Wanted{Role: "acme"}, backends.ErrInvalid, "no role"},
		"a tenant":                         {bound, authn.Wanted{Policies: reader, Tenant: "globex"}, backends.ErrDenied, "bound to the tenant"},
		"another tenant than the role's":   {root, authn.Wanted{Role: "acme", Tenant: "globex"}, backends.ErrInvalid, "is of the tenant"},
		"no such role":                     {root, authn.Wanted{Role: "nosuch"}, backends.ErrInvalid, `there is no role "nosuch"`},
		"nothing":                          {root, authn.Wanted{}, backends.ErrInvalid, "could do nothing"},
		"both":                             {root, authn.Wanted{Role: "free", Policies: reader}, backends.ErrInvalid, "either"},
		"break glass without a role":       {root, authn.Wanted{Policies: reader, BreakGlass: true}, backends.ErrInvalid, "needs a role"},
		"a longer life":                    {brief, authn.Wanted{Policies: reader, TTL: time.Hour}, backends.ErrDenied, "expires in 1m0s"},
		"from a token of few uses":         {once, authn.Wanted{Policies: reader}, backends.ErrDenied, "makes no others"},
		"break glass from one of few uses": {once, authn.Wanted{Role: "free", BreakGlass: true}, backends.ErrDenied, "makes no others"},
		"too deep":                         {deep, authn.Wanted{Policies: reader}, backends.ErrDenied, "descends from 7 others"},
		"a ttl beyond the longest":         {root, authn.Wanted{Policies: reader, TTL: time.Hour, MaxTTL: time.Minute}, backends.ErrInvalid, "longer than"},
		"a ttl beyond the role's":          {root, authn.Wanted{Role: "short", TTL: 2 * time.Hour}, backends.ErrDenied, "at most 1h0m0s"},
		"a max ttl beyond the role's":      {root, authn.Wanted{Role: "short", MaxTTL: 2 * time.Hour}, backends.ErrDenied, "at most 1h0m0s"},
		"idle beyond the role's":           {root, authn.Wanted{Role: "short", Idle: 2 * time.Hour}, backends.ErrDenied, "at most 1h0m0s"},
		"uses beyond the role's":           {root, authn.Wanted{Role: "short", Uses: 6}, backends.ErrDenied, "at most 5"},
		"idle for a second":                {root, authn.Wanted{Policies: reader, Idle: time.Second}, backends.ErrInvalid, "at least 1m0s"},
	} {
		if _, text, err := o.Make(tt.maker, tt.w); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || text != "" {
			t.Errorf("%s: %v", what, err)
		}
	}

	inherits := func(what string, rec store.Token, tenant, environment string) {
		if rec.Tenant != tenant || rec.Environment != environment {
			t.Errorf("%s: tenant %q, environment %q", what, rec.Tenant, rec.Environment)
		}
	}
	rec, _ := o.make(staging, authn.Wanted{Policies: reader})
	inherits("policies of one who is bound", rec, "acme", "staging")
	rec, _ = o.make(staging, authn.Wanted{Role: "acme-staging", BreakGlass: true})
	inherits("break glass of one who is bound", rec, "acme", "staging")
	rec, _ = o.make(root, authn.Wanted{Role: "free", Tenant: "globex"})
	inherits("a free role for a tenant", rec, "globex", "")

	rec, text := o.make(cidr, authn.Wanted{Policies: reader})
	if got := o.why(text, there); rec.CIDRs != nil || got != "the token is bound to other addresses" {
		t.Errorf("the child of one that is bound to addresses, from elsewhere: %q", got)
	}
	_, text = o.make(cidr, authn.Wanted{Role: "free", BreakGlass: true})
	if got := o.why(text, there); got != "the token is bound to other addresses" {
		t.Errorf("break glass of one that is bound to addresses, from elsewhere: %q", got)
	}
}

func TestWhatRootMakes(t *testing.T) {
	o := newOffice(t, admin, policy.Role{Name: "app", Policies: []string{"reader"}})
	root := o.root()
	if want := began.Add(authn.RootTTL); !root.ExpiresAt.Equal(want) {
		t.Errorf("it expires %s, want %s", root.ExpiresAt, want)
	}
	same, _ := o.make(root, authn.Wanted{Policies: []string{"root"}})
	boss, text := o.make(root, authn.Wanted{Role: "admin"})
	again, _ := o.make(o.holder(text), authn.Wanted{Role: "admin"})
	app, _ := o.make(o.holder(text), authn.Wanted{Role: "app"})
	if same.Parent != root.ID || same.ExpiresAt.After(root.ExpiresAt) || boss.Parent != "" || !boss.ExpiresAt.IsZero() || again.Parent != boss.ID || app.Parent != "" {
		t.Errorf("parents: of root %q, of another role %q, of the same role %q, of another yet %q", same.Parent, boss.Parent, again.Parent, app.Parent)
	}
	if app.Lineage != root.Lineage+"/"+boss.ID+"/"+app.ID || same.Lineage != root.Lineage {
		t.Errorf("lineages %s and %s", app.Lineage, same.Lineage)
	}
}

func TestLogins(t *testing.T) {
	role := policy.Role{Name: "on-call", Policies: []string{"responder"}, TokenTTL: time.Hour, TokenMaxTTL: 3 * time.Hour}
	o := newOffice(t, role, policy.Role{Name: "acme", Tenant: "acme", Environment: "staging", Policies: []string{"reader"}, TokenUses: 2})
	rec, text := o.MakeFor(authn.Identity{Method: "corp", Subject: "a/lice", Name: "Alice"}, &role, o.clock)
	o.keep(rec)
	p := o.holder(text)
	if p.Method != "corp" || p.Lineage != "corp:a%2Flice" || p.Name != "Alice" || p.Role != "on-call" || !p.ExpiresAt.Equal(began.Add(time.Hour)) {
		t.Errorf("%+v", p)
	}
	child, _ := o.make(p, authn.Wanted{Policies: []string{"responder"}})
	if child.Lineage != p.Lineage || child.Method != "" || child.Parent != p.ID {
		t.Errorf("its child: %+v", child)
	}
	bound, _ := o.login("bob", "acme")
	if bound.Tenant != "acme" || bound.Environment != "staging" || bound.Uses != 2 || bound.UsesLeft != 2 || !bound.ExpiresAt.IsZero() || bound.Idle != policy.DefaultTokenIdle {
		t.Errorf("of a tenant: %+v", bound)
	}
	byCertificate, _ := o.MakeFor(authn.Identity{Method: "mesh", Subject: "app", ExpiresAt: began.Add(30 * time.Minute)}, &role, o.clock)
	if !byCertificate.ExpiresAt.Equal(began.Add(30*time.Minute)) || !byCertificate.EndsAt.Equal(byCertificate.ExpiresAt) {
		t.Errorf("with a certificate for half an hour: expires %s, ends %s", byCertificate.ExpiresAt, byCertificate.EndsAt)
	}
	endless, _ := o.MakeFor(authn.Identity{Method: "mesh", Subject: "app", ExpiresAt: began.Add(30 * time.Minute)}, &policy.Role{Name: "x"}, o.clock)
	if !endless.ExpiresAt.Equal(began.Add(30*time.Minute)) || endless.TTL != 30*time.Minute {
		t.Errorf("with a role that sets no end: expires %s, ttl %s", endless.ExpiresAt, endless.TTL)
	}
	o.SetRules(authn.Rules{Roles: map[string]*policy.Role{"on-call": &role}})
	if got := o.why(text, here); got != "the method of the login is not in the configuration" {
		t.Errorf("the method is gone: %q", got)
	}
}

func TestRenewal(t *testing.T) {
	role := policy.Role{Name: "app", Policies: []string{"reader"}, TokenTTL: time.Hour, TokenMaxTTL: 3 * time.Hour}
	o := newOffice(t, role)
	root := o.root()
	renew := func(p authn.Principal) (at time.Time, err error) {
		err = o.db.Update(t.Context(), func(tx *store.Tx) error {
			rec, err := o.Renew(t.Context(), tx, p)
			at = rec.ExpiresAt
			return err
		})
		return at, err
	}
	after := func(d time.Duration) time.Time { return began.Add(d) }
	app, text := o.make(root, authn.Wanted{Role: "app"})
	p := o.holder(text)
	_, text = o.make(p, authn.Wanted{Policies: []string{"reader"}, TTL: 30 * time.Minute, MaxTTL: 10 * time.Hour})
	child := o.holder(text)
	_, text = o.make(root, authn.Wanted{Policies: []string{"reader"}, TTL: time.Hour})
	fixed := o.holder(text)
	_, text = o.make(root, authn.Wanted{Policies: []string{"reader"}})
	endless := o.holder(text)

	o.clock = after(50 * time.Minute)
	o.update(func(tx *store.Tx) error { return tx.RenewToken(t.Context(), child.ID, after(55*time.Minute)) })
	for _, tt := range []struct {
		what string
		p    authn.Principal
		at   time.Duration
		want time.Time
	}{
		{"a child, not beyond its parent", child, 50 * time.Minute, after(time.Hour)},
		{"by the role", p, 50 * time.Minute, after(110 * time.Minute)},
		{"a child, once its parent is", child, 55 * time.Minute, after(85 * time.Minute)},
		{"without a longest life", fixed, 55 * time.Minute, after(time.Hour)},
		{"without a ttl", endless, 55 * time.Minute, time.Time{}},
		{"root", root, 55 * time.Minute, after(time.Hour)},
		{"again", p, 100 * time.Minute, after(160 * time.Minute)},
		{"not beyond the longest life", p, 150 * time.Minute, app.EndsAt},
		{"nor ever", p, 179 * time.Minute, app.EndsAt},
	} {
		o.clock = after(tt.at)
		if got, err := renew(tt.p); err != nil || !got.Equal(tt.want) {
			t.Errorf("%s: until %s (%v), want %s", tt.what, got, err, tt.want)
		}
	}
	if _, err := renew(fixed); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("an expired one: %v", err)
	}
}

func TestWhatIsNoToken(t *testing.T) {
	o := newOffice(t)
	_, text := o.MakeRoot() // never kept
	for shown, why := range map[backends.SecretString]string{
		"":                               "no credentials",
		"kbt_x":                          "no token of ours",
		"kb_" + text[len("kbt_"):]:       "no token of ours",
		text + "x":                       "no token of ours",
		text:                             "unknown token",
		backends.SecretString("\x00é ä"): "no token of ours",
	} {
		if got := o.why(shown, here); got != why {
			t.Errorf("%q, want %q", got, why)
		}
		if last := o.log.last(); last.Actor != "anonymous" {
			t.Errorf("%s: audited as %s", why, last.Actor)
		}
	}
	o.log.fail = backends.ErrUnavailable
	if _, err := o.show(text, here); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("what cannot be audited: %v", err)
	}
}

func TestWithoutTheStoreNobodyIsKnown(t *testing.T) {
	o := newOffice(t)
	p := o.root()
	_, text := o.make(p, authn.Wanted{Policies: []string{"reader"}})
	if err := o.db.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := o.show(text, here)
	if !errors.Is(err, backends.ErrUnavailable) || strings.Contains(err.Error(), "database") || !strings.Contains(o.said.String(), "cannot be authenticated") {
		t.Errorf("%v; the log has %s", err, o.said.String())
	}
	if _, err := o.Again(t.Context(), p); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("again: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	for _, seed := range []string{"", "kbt_", "kbt_x", "kb_0000000000000000000000000000000000000", "kbt_kbt_00000000000000000000000000000000000000", "Bearer kbt_", "kbt_\xff"} {
		f.Add(seed)
	}
	_, good := authn.NewTokens(nil, nil, time.Now).MakeRoot()
	f.Add(good.Reveal())
	f.Fuzz(func(t *testing.T, text string) {
		if !authn.WellFormed(text) {
			return
		}
		random, ok := strings.CutPrefix(text, "kbt_")
		if !ok || len(random) < 36 || strings.ContainsFunc(random, func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		}) {
			t.Fatalf("%q is no token", text)
		}
		for i := range random { // each character counts
			changed := []byte(text)
			if changed[i+4] ^= 1; authn.WellFormed(string(changed)) {
				t.Fatalf("%q and %q are both tokens", text, changed)
			}
		}
		if authn.WellFormed(text+" ") || authn.WellFormed(" "+text) || authn.WellFormed(strings.ToUpper(text)) {
			t.Fatalf("%q is a token with something beside it", text)
		}
	})
}
