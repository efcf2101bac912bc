package policy_test

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/policy"
)

func overlapPolicy(name string, overlap time.Duration, labels map[string]string, paths ...string) policy.RotationPolicy {
	return policy.RotationPolicy{
		Name:     name,
		Match:    policy.Match{Paths: paths, Labels: labels},
		Settings: policy.Settings{Overlap: &overlap},
	}
}

func TestResolveDefaults(t *testing.T) {
	got := policy.Resolve(nil, "a/b", nil, policy.Settings{})
	if !reflect.DeepEqual(got.Rotation, policy.Default()) || got.Policy != "" || len(got.Bounds) > 0 {
		t.Errorf("got %+v", got)
	}
	for _, o := range got.Origins {
		if o.Source != policy.FromDefault || o.Policy != "" {
			t.Errorf("got %+v", o)
		}
	}
	if problems := policy.Check(got.Rotation); len(problems) > 0 {
		t.Errorf("the defaults have problems: %v", problems)
	}
}

func TestMostSpecificPolicyGivesTheDefaults(t *testing.T) {
	risky := map[string]string{"risk": "high"}
	both := map[string]string{"risk": "high", "team": "growth"}
	policies := []policy.RotationPolicy{
		overlapPolicy("everything", 1*time.Hour, nil),
		overlapPolicy("labelled", 2*time.Hour, risky),
		overlapPolicy("payments", 3*time.Hour, nil, "x", "payments/*"),
		overlapPolicy("payments-risky", 4*time.Hour, risky, "payments/*"),
		overlapPolicy("payments-both", 5*time.Hour, both, "payments/*"),
		overlapPolicy("same-as-payments-z", 6*time.Hour, nil, "payments/*"),
		overlapPolicy("stripe", 7*time.Hour, nil, "payments/stripe"),
		overlapPolicy("wide-and-narrow", 8*time.Hour, nil, "*", "mail/smtp/*"),
	}
	for _, c := range []struct {
		name   string
		labels map[string]string
		policy string
	}{
		{"other", nil, "everything"},
		{"other", risky, "labelled"},
		{"other", map[string]string{"risk": "low"}, "everything"},
		{"payments/adyen", nil, "payments"},
		{"payments/adyen", risky, "payments-risky"},
		{"payments/adyen", both, "payments-both"},
		{"payments/stripe", both, "stripe"},
		{"mail/smtp/relay", both, "wide-and-narrow"},
	} {
		got := policy.Resolve(policies, c.name, c.labels, policy.Settings{})
		if o := got.Origin("overlap"); o.Source != policy.FromPolicy || o.Policy != c.policy || got.Policy != c.policy {
			t.Errorf("%s %v: got %+v, want policy %s", c.name, c.labels, o, c.policy)
		}
		if got.MaxOverlap != 2*got.Overlap {
			t.Errorf("%s: an overlap of %s with a maximum of %s", c.name, got.Overlap, got.MaxOverlap)
		}
	}
}

func TestSecretGoesBeforePolicyAndPoliciesDoNotAddUp(t *testing.T) {
	schedule, zone, short, window := "@daily", "Europe/Berlin", time.Hour, 10*time.Minute
	none, recheck := policy.ProofNone, []time.Duration{}
	general := policy.RotationPolicy{Name: "general", Settings: policy.Settings{TimeZone: &zone}}
	special := policy.RotationPolicy{Name: "special", Match: policy.Match{Paths: []string{"a/*"}}, Settings: policy.Settings{
		Schedule: &schedule, Proof: &none, Confirm: policy.ConfirmSettings{Window: &window, Recheck: &recheck},
	}}
	resolved := policy.Resolve([]policy.RotationPolicy{general, special}, "a/b", nil, policy.Settings{Overlap: &short})
	got, want := resolved.Rotation, policy.Default()
	want.Schedule, want.Overlap, want.MaxOverlap, want.Proof = "@daily", time.Hour, 2*time.Hour, policy.ProofNone
	want.Confirm.Window, want.Confirm.Recheck = window, nil
	if len(got.Confirm.Recheck) == 0 {
		got.Confirm.Recheck = nil
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for setting, want := range map[string]policy.Origin{
		"overlap":         {Setting: "overlap", Source: policy.FromSecret},
		"schedule":        {Setting: "schedule", Source: policy.FromPolicy, Policy: "special"},
		"time_zone":       {Setting: "time_zone", Source: policy.FromDefault},
		"confirm.recheck": {Setting: "confirm.recheck", Source: policy.FromPolicy, Policy: "special"},
	} {
		if o := resolved.Origin(setting); o != want {
			t.Errorf("got %+v, want %+v", o, want)
		}
	}
}

// leaves returns the names under which the settings of a struct are stored.
func leaves(prefix string, v reflect.Type) []string {
	var names []string
	for i := range v.NumField() {
		name := prefix + strings.Split(v.Field(i).Tag.Get("json"), ",")[0]
		if f := v.Field(i).Type; f.Kind() == reflect.Struct {
			names = append(names, leaves(name+".", f)...)
		} else {
			names = append(names, name)
		}
	}
	return names
}

// TestEverySettingIsMerged sets each field of Settings by reflection, once in a
// policy and once in the secret, so that a setting forgotten in Resolve is found.
func TestEverySettingIsMerged(t *testing.T) {
	var names []string
	for _, o := range policy.Resolve(nil, "a", nil, policy.Settings{}).Origins {
		names = append(names, o.Setting)
	}
	if want := leaves("", reflect.TypeFor[policy.Rotation]()); !reflect.DeepEqual(names, want) {
		t.Errorf("origins: got %v, want %v", names, want)
	}
	var all policy.Settings
	fill(reflect.ValueOf(&all).Elem())
	p := policy.RotationPolicy{Name: "p", Settings: all}
	byPolicy := policy.Resolve([]policy.RotationPolicy{p}, "a", nil, policy.Settings{})
	for _, o := range byPolicy.Origins {
		if o.Source != policy.FromPolicy && o.Setting != "max_overlap" { // which nobody sets
			t.Errorf("from a policy: %+v", o)
		}
	}
	bySecret := policy.Resolve(nil, "a", nil, all)
	for _, o := range bySecret.Origins {
		if o.Source != policy.FromSecret && o.Setting != "max_overlap" {
			t.Errorf("from the secret: %+v", o)
		}
	}
	if !reflect.DeepEqual(byPolicy.Rotation, bySecret.Rotation) {
		t.Errorf("policy: %+v\nsecret: %+v", byPolicy, bySecret)
	}
	set := byPolicy.Rotation
	if set.MaxOverlap != 2*set.Overlap {
		t.Errorf("a maximum of %s of an overlap of %s", set.MaxOverlap, set.Overlap)
	}
	set.MaxOverlap = set.Overlap
	empty(t, "Rotation", reflect.ValueOf(set))
}

func fill(v reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() == reflect.Struct {
			fill(f)
			continue
		}
		f.Set(reflect.New(f.Type().Elem()))
		switch e := f.Elem(); e.Kind() {
		case reflect.String:
			e.SetString("set")
		case reflect.Bool:
			e.SetBool(true)
		case reflect.Slice:
			one := reflect.MakeSlice(e.Type(), 1, 1)
			if one.Index(0).Kind() == reflect.String {
				one.Index(0).SetString("set")
			} else {
				one.Index(0).SetInt(7)
			}
			e.Set(one)
		default:
			e.SetInt(7)
		}
	}
}

func empty(t *testing.T, name string, v reflect.Value) {
	for i := range v.NumField() {
		f, name := v.Field(i), name+"."+v.Type().Field(i).Name
		switch {
		case f.Kind() == reflect.Struct:
			empty(t, name, f)
		case f.Kind() == reflect.String && f.String() != "set",
			f.Kind() == reflect.Bool && !f.Bool(),
			f.CanInt() && f.Int() != 7,
			f.Kind() == reflect.Slice && f.Len() != 1:
			t.Errorf("%s was not set: %v", name, f)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		change            func(*policy.Rotation)
		attribute, within string
	}{
		{func(r *policy.Rotation) { r.Overlap = -1 }, "overlap", "negative"},
		{func(r *policy.Rotation) { r.Jitter = -1 }, "jitter", "negative"},
		{func(r *policy.Rotation) { r.MaxAge = -1 }, "max_age", "negative"},
		{func(r *policy.Rotation) { r.NoticeBefore = -1 }, "notice_before", "negative"},
		{func(r *policy.Rotation) { r.MaxAge = 24 * time.Hour }, "max_age", "not longer than the overlap, 24h0m0s"},
		{func(r *policy.Rotation) { r.MaxAge, r.MinInterval = 48*time.Hour, 49*time.Hour }, "max_age", "shorter than min_interval, 49h0m0s"},
		{func(r *policy.Rotation) { r.MaxAge, r.Window = 48*time.Hour, "Sun 03:00-04:00" }, "max_age", "stays closed for up to 167h0m0s"},
		{func(r *policy.Rotation) { r.MaxAge, r.Window = 167*time.Hour, "Sun 03:00-04:00" }, "max_age", `"167h5m0s" or more`},
		{func(r *policy.Rotation) {
			r.MaxAge, r.Window = 40*time.Hour, "Mon-Fri 22:00-02:00, Mon-Thu 01:00-03:00"
		}, "max_age", "for up to 47h0m0s"},
		{func(r *policy.Rotation) { r.MaxAge, r.Window = 48*time.Hour, "Mon 02:00" }, "window", "no time of the week"},
		{func(r *policy.Rotation) { r.Window = "Mon 02:00" }, "window", "no time of the week"},
		{func(r *policy.Rotation) { r.MaxConcurrent = -1 }, "max_concurrent", "negative"},
		{func(r *policy.Rotation) { r.Key.Classes = []string{"lowr"} }, "key.classes", `did you mean "lower"?`},
		{func(r *policy.Rotation) { r.Key.Classes = []string{"digit", "digit"} }, "key.classes", "twice"},
		{func(r *policy.Rotation) { r.Verify.Successes = 0 }, "verify.successes", "at least 1"},
		{func(r *policy.Rotation) { r.Verify.Timeout = 0 }, "verify.timeout", "without time"},
		{func(r *policy.Rotation) {
			r.Verify = policy.Verify{Successes: 10, Interval: time.Minute, Timeout: time.Minute}
		}, "verify.timeout", "do not fit"},
		{func(r *policy.Rotation) { r.Confirm.Rejections = 0 }, "confirm.rejections", "prove nothing"},
		{func(r *policy.Rotation) { r.Confirm.Recheck = []time.Duration{0} }, "confirm.recheck", "is none"},
		{func(r *policy.Rotation) { r.Confirm.Recheck = []time.Duration{2, 1} }, "confirm.recheck", "ascending"},
		{func(r *policy.Rotation) { r.Acknowledgement.Require = "aplied" }, "acknowledgement.require", `did you mean "applied"?`},
		{func(r *policy.Rotation) { r.Acknowledgement.OnTimeout = "wait" }, "acknowledgement.on_timeout", "proceed, hold"},
		{func(r *policy.Rotation) { r.Emergency.Contain = "revoke" }, "emergency.contain", "one of replace_first, revoke_first"},
		{func(r *policy.Rotation) { r.Proof = "non" }, "proof", `did you mean "none"?`},
		{func(r *policy.Rotation) { r.Key.Length = -1 }, "key.length", "negative"},
	} {
		r := policy.Default()
		c.change(&r)
		problems := policy.Check(r)
		if len(problems) != 1 || problems[0].Attribute != c.attribute || !strings.Contains(problems[0].String(), c.within) {
			t.Errorf("%s %q: got %+v", c.attribute, c.within, problems)
		}
	}
}

// TestAMaxAgeThatItsWindowKeeps: some opening is always early enough.
func TestAMaxAgeThatItsWindowKeeps(t *testing.T) {
	for window, age := range map[string]time.Duration{
		"Sun 03:00-04:00":                  167*time.Hour + 5*time.Minute,
		"00:00-24:00":                      25 * time.Hour,
		"Sat 22:00-02:00, Wed 12:00-13:00": 48 * time.Hour * 2,
		"02:00-05:00":                      25 * time.Hour,
	} {
		r := policy.Default()
		r.Window, r.MaxAge = window, age
		if problems := policy.Check(r); len(problems) > 0 {
			t.Errorf("%s and %s: %v", window, age, problems)
		}
	}
}

// A maximum that follows from a wrong overlap is not a second mistake.
func TestWrongOverlapIsOneProblem(t *testing.T) {
	for _, overlap := range []time.Duration{-time.Hour, math.MinInt64} {
		r := policy.Resolve(nil, "a", nil, policy.Settings{Overlap: &overlap})
		if problems := policy.Check(r.Rotation); len(problems) != 1 || problems[0].Attribute != "overlap" {
			t.Errorf("%s: got %+v", overlap, problems)
		}
	}
	long := time.Duration(math.MaxInt64)/2 + time.Hour
	r := policy.Resolve(nil, "a", nil, policy.Settings{Overlap: &long})
	if problems := policy.Check(r.Rotation); len(problems) > 0 || r.MaxOverlap < long {
		t.Errorf("%s: a maximum of %s, %+v", long, r.MaxOverlap, problems)
	}
}

func TestValidateRotation(t *testing.T) {
	zero, never, negative := 0, time.Duration(0), -time.Hour
	problems := policy.ValidateRotation(policy.RotationPolicy{
		Match:    policy.Match{Paths: []string{"ok/*", "/bad", "sys/x"}},
		Settings: policy.Settings{MaxConcurrent: &zero, Confirm: policy.ConfirmSettings{Rejections: &zero}},
		Limits:   policy.Limits{MaxOverlap: &negative, MaxAge: &never, MinLength: &zero},
	})
	var got []string
	for _, p := range problems {
		got = append(got, p.Attribute)
	}
	if want := []string{"name", "match.paths", "match.paths", "limits.max_overlap", "limits.max_age", "limits.min_length", "max_concurrent", "confirm.rejections"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v: %v", got, want, problems)
	}
}
