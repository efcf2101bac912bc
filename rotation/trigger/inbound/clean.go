package inbound

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keybroker/keybroker/backends"
)

// How much of what a sender says is kept, in bytes.
const (
	maxID     = 256
	maxReason = 1024
	maxSource = 256
	maxURL    = 1024
	maxName   = 512
	maxLabel  = 256

	maxNames  = 1000 // secrets, and values, of one event
	maxLabels = 32
	// shortest is a value that is masked where it stands in a text, in bytes: of anything
	// shorter every second word would be.
	shortest = 6
)

const mask = "[value]"

// Clean makes what a sender said fit to be kept and shown: bounded, printable, on one
// line, and without the event's values where they stand in its texts. Names of secrets are
// left as they are, or left out where no secret could be called that.
func (e Event) Clean() Event {
	e.Values = slices.DeleteFunc(slices.Clone(e.Values), func(v backends.SecretString) bool { return strings.TrimSpace(v.Reveal()) == "" })
	e.Values = e.Values[:min(len(e.Values), maxNames)]
	said := func(text string, most int) string { return Text(e.masked(text), most) }
	if e.ID = said(e.ID, math.MaxInt); len(e.ID) > maxID { // what is cut off would tell two events apart
		sum := sha256.Sum256([]byte(e.ID))
		e.ID = "sha256:" + hex.EncodeToString(sum[:])
	}
	e.Reason, e.Source, e.URL = said(e.Reason, maxReason), said(e.Source, maxSource), said(link(e.URL, e.masked), maxURL)
	e.Secrets = slices.DeleteFunc(slices.Clone(e.Secrets), func(name string) bool {
		isValue := func(v backends.SecretString) bool { return strings.TrimSpace(v.Reveal()) == name }
		return name == "" || name != Text(name, maxName) || slices.ContainsFunc(e.Values, isValue)
	})
	e.Secrets = e.Secrets[:min(len(e.Secrets), maxNames)]
	e.Labels = e.labels()
	if e.Missing != nil {
		e.Missing = &Missing{e.Missing.Ask, said(e.Missing.Why, maxReason)}
	}
	return e
}

// labels are those of the event; none where there are too many: to leave some of them out
// would mean more secrets.
func (e Event) labels() map[string]string {
	if len(e.Labels) == 0 || len(e.Labels) > maxLabels {
		return nil
	}
	labels := map[string]string{}
	for key, value := range e.Labels {
		if key != Text(key, maxLabel) || value != Text(value, maxLabel) {
			return nil // no secret has such a one
		}
		labels[key] = value
	}
	return labels
}

// masked is a text without the event's values.
func (e Event) masked(text string) string {
	for _, v := range e.Values {
		if value := strings.TrimSpace(v.Reveal()); len(value) >= shortest {
			text = strings.ReplaceAll(text, value, mask)
			text = strings.ReplaceAll(text, url.QueryEscape(value), mask)
			text = strings.ReplaceAll(text, url.PathEscape(value), mask)
		}
	}
	return text
}

// Text is a text on one line, printable, of that many bytes at most.
func Text(text string, most int) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r) || r == utf8.RuneError:
			return -1
		}
		return r
	}, text)
	if clean = strings.TrimSpace(clean); len(clean) <= most {
		return clean
	}
	const ellipsis = "…"
	cut := max(most-len(ellipsis), 0)
	for cut > 0 && !utf8.RuneStart(clean[cut]) {
		cut--
	}
	return clean[:cut] + ellipsis
}

// Link is a URL without what may be a credential: user, query and fragment. Empty where it
// is none that a browser would open.
func Link(text string) string {
	return link(text, func(path string) string { return path })
}

// link is Link with another path.
func link(text string, clean func(path string) string) string {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	u.User, u.RawQuery, u.Fragment, u.RawFragment = nil, "", "", ""
	u.Path, u.RawPath = clean(u.Path), "" // which could spell a value otherwise
	return u.String()
}
