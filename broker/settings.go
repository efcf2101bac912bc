package broker

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation"
)

// SettingsOf lists what a definition says, in the order of its documentation: by the
// names that the configuration has for it, and as it is written there. What there is
// none of is empty. Labels and what a secret asks of its issuer are there if they are.
func SettingsOf(d rotation.Definition) []client.Setting {
	var l listing
	l.add("backend", d.Backend)
	l.add("mirrors", list(d.Mirrors))
	l.add("on_drift", string(d.OnDrift))
	l.add("issuer", d.Issuer)
	l.settings(d.Settings)
	l.add("probe", d.Probe)
	l.add("consumers", list(d.Consumers))
	for _, name := range slices.Sorted(maps.Keys(d.Labels)) {
		l.add("labels."+name, d.Labels[name])
	}
	l.add("pair", d.Pair)
	if d.Issuer == "" {
		return l.all // nobody rotates it: the rest says nothing
	}
	l.add("schedule", d.Schedule)
	l.add("time_zone", d.TimeZone)
	l.add("jitter", span(d.Jitter))
	l.add("window", d.Window)
	l.add("max_age", span(d.MaxAge))
	l.add("min_interval", span(d.MinInterval))
	l.add("max_concurrent", count(d.MaxConcurrent))
	l.add("notice_before", span(d.NoticeBefore))
	l.plan(d.Plan)
	return l.all
}

// listing collects settings.
type listing struct{ all []client.Setting }

func (l *listing) add(name, value string) {
	l.all = append(l.all, client.Setting{Name: name, Value: value})
}

// settings lists a secret's own issuer block.
func (l *listing) settings(settings json.RawMessage) {
	var values map[string]json.RawMessage
	if json.Unmarshal(settings, &values) != nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		var text string
		if json.Unmarshal(values[name], &text) != nil {
			text = string(values[name])
		}
		l.add("issuer."+name, text)
	}
}

func (l *listing) plan(p rotation.Plan) {
	l.add("overlap", needed(p.Overlap))
	l.add("max_overlap", needed(p.MaxOverlap))
	l.add("approval", strconv.FormatBool(p.Approval))
	l.add("wait_for_mirrors", strconv.FormatBool(p.WaitForMirrors))
	l.add("verify.successes", strconv.Itoa(p.Verify.Successes))
	l.add("verify.interval", needed(p.Verify.Interval))
	l.add("verify.timeout", needed(p.Verify.Timeout))
	if p.Confirm.None {
		l.add("proof", "none")
	} else {
		l.add("proof", "by its probe")
	}
	l.add("confirm.rejections", strconv.Itoa(p.Confirm.Rejections))
	l.add("confirm.window", needed(p.Confirm.Window))
	l.add("confirm.recheck", spans(p.Confirm.Recheck))
	l.add("confirm.budget", needed(p.Confirm.Budget))
	l.add("acknowledgement.require", string(p.Acknowledgement.Require))
	l.add("acknowledgement.timeout", needed(p.Acknowledgement.Timeout))
	onTimeout := "proceed"
	if p.Acknowledgement.Hold {
		onTimeout = "hold"
	}
	l.add("acknowledgement.on_timeout", onTimeout)
	l.add("key.length", count(p.Key.Length))
	l.add("key.alphabet", p.Key.Alphabet)
	l.add("key.classes", list(p.Key.Classes))
	l.add("key.prefix", p.Key.Prefix)
	l.add("key.checksum", strconv.FormatBool(p.Key.Checksum))
	contain := client.ReplaceFirst
	if p.Emergency.RevokeFirst {
		contain = client.RevokeFirst
	}
	l.add("emergency.contain", contain)
	l.add("emergency.replace_within", needed(p.Emergency.ReplaceWithin))
}

func list(all []string) string { return strings.Join(all, ", ") }

// count is a number of which 0 is none.
func count(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// span is a duration of which 0 is none.
func span(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return needed(d)
}

// needed is a duration as it is written in the configuration: "24h", not "24h0m0s".
func needed(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func spans(all []time.Duration) string {
	texts := make([]string, len(all))
	for i, d := range all {
		texts[i] = needed(d)
	}
	return list(texts)
}

// ChangedSettings lists what differs between two definitions, in the order of SettingsOf.
func ChangedSettings(from, to rotation.Definition) []client.SettingChange {
	was, is := SettingsOf(from), SettingsOf(to)
	value := func(all []client.Setting, name string) string {
		i := slices.IndexFunc(all, func(s client.Setting) bool { return s.Name == name })
		if i < 0 {
			return ""
		}
		return all[i].Value
	}
	var out []client.SettingChange
	for _, s := range is {
		if before := value(was, s.Name); before != s.Value {
			out = append(out, client.SettingChange{Name: s.Name, From: before, To: s.Value})
		}
	}
	for _, s := range was {
		gone := !slices.ContainsFunc(is, func(now client.Setting) bool { return now.Name == s.Name })
		if gone && s.Value != "" {
			out = append(out, client.SettingChange{Name: s.Name, From: s.Value})
		}
	}
	if from.Policy != to.Policy {
		out = append(out, client.SettingChange{Name: "rotation_policy", From: from.Policy, To: to.Policy})
	}
	return out
}
