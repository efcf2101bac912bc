package inbound_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const canary = "c4n4ry-s3cr3t-v4lue"

func TestDecodeRefuses(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":        "",
		"no JSON":        canary,
		"cut off":        `{"a":"` + canary,
		"two documents":  `{} {"a":"` + canary + `"}`,
		"deep lists":     strings.Repeat("[", 65) + strings.Repeat("]", 65),
		"deep objects":   strings.Repeat(`{"a":`, 100_000),
		"another type":   `{"number":"` + canary + `"}`,
		"a wrong number": `{"number":` + strings.Repeat("9", 400) + `}`,
	} {
		var doc struct{ Number int }
		err := inbound.Decode([]byte(body), &doc)
		if !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, body := range map[string]string{
		"as deep as may be":    strings.Repeat("[", 64) + strings.Repeat("]", 64),
		"brackets in a text":   `{"a":"` + strings.Repeat("[", 1000) + `\"` + strings.Repeat("{", 1000) + `"}`,
		"a number's digits":    `{"n":12345678901234567890}`,
		"space at the end":     "{}\n ",
		"many beside another":  "[" + strings.Repeat("[],", 1000) + "[]]",
		"a backslash in a key": `{"\\":[[]]}`,
	} {
		var doc any
		if err := inbound.Decode([]byte(body), &doc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHubSignature checks the example of GitHub's documentation, "Validating webhook
// deliveries", and what is not it.
func TestHubSignature(t *testing.T) {
	const (
		secret = "It's a Secret to Everybody"
		body   = "Hello, World!"
		good   = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	)
	verify := func(secrets []backends.SecretString, body string, signatures ...string) (string, error) {
		return inbound.VerifyHub(secrets, http.Header{http.CanonicalHeaderKey(inbound.HeaderHub): signatures}, []byte(body))
	}
	both := inbound.Lines(backends.SecretString("another secret of them\n" + secret + "\n"))
	if len(both) != 2 {
		t.Fatal(len(both))
	}
	id, err := verify(both, body, good)
	if err != nil || id == "" || strings.Contains(good, id) && len(id) >= 64 {
		t.Fatalf("%q, %v", id, err)
	}
	if again, err := verify(both[1:], body, good); err != nil || again != id {
		t.Errorf("the same body is another message: %q, %v", again, err)
	}
	for name, signatures := range map[string][]string{
		"none":            nil,
		"empty":           {""},
		"two":             {good, good},
		"SHA-1":           {"sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59"},
		"without prefix":  {strings.TrimPrefix(good, "sha256=")},
		"cut short":       {good[:len(good)-2]},
		"longer":          {good + "00"},
		"no hexadecimals": {"sha256=" + strings.Repeat("z", 64)},
		"of another body": {"sha256=" + strings.Repeat("0", 64)},
	} {
		if _, err := verify(both, body, signatures...); !errors.Is(err, backends.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := verify(both, body+" ", good); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("another body: %v", err)
	}
	if _, err := verify(both[:1], body, good); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("another secret: %v", err)
	}
	if _, err := verify(nil, body, good); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("no secret: %v", err)
	}
}

func TestBearer(t *testing.T) {
	tokens := inbound.Lines("first-token-of-sixteen\nsecond-token-of-sixteen")
	for name, c := range map[string]struct {
		given []string
		good  bool
	}{
		"first":          {[]string{"Bearer first-token-of-sixteen"}, true},
		"second":         {[]string{"bearer second-token-of-sixteen"}, true},
		"none":           {nil, false},
		"empty":          {[]string{"Bearer "}, false},
		"both":           {[]string{"Bearer first-token-of-sixteen", "Bearer first-token-of-sixteen"}, false},
		"another":        {[]string{"Bearer " + canary}, false},
		"the beginning":  {[]string{"Bearer first-token"}, false},
		"another scheme": {[]string{"Basic first-token-of-sixteen"}, false},
		"alone":          {[]string{"first-token-of-sixteen"}, false},
	} {
		err := inbound.VerifyBearer(tokens, http.Header{"Authorization": c.given})
		if c.good != (err == nil) || err != nil && (!errors.Is(err, backends.ErrDenied) || strings.Contains(err.Error(), canary)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := inbound.VerifyBearer(nil, http.Header{"Authorization": {"Bearer "}}); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("no token at all: %v", err)
	}
}

func TestShortSecretsAreRefused(t *testing.T) {
	for _, text := range []backends.SecretString{"too short", "long enough to be one\nshort", " \n"} {
		err := inbound.CheckSecrets("bearer_token", text)
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "bearer_token") || strings.Contains(err.Error(), "short\n") {
			t.Errorf("%q: %v", text.Reveal(), err)
		}
	}
	for _, text := range []backends.SecretString{"", "long enough to be one\nanother of that length\n"} {
		if err := inbound.CheckSecrets("bearer_token", text); err != nil {
			t.Error(err)
		}
	}
}

// TestCleanShowsNoValue, wherever the sender has put it, and however it is written there.
func TestCleanShowsNoValue(t *testing.T) {
	odd := canary + "/+ &"
	e := inbound.Event{
		ID: "leak of " + odd, Secrets: []string{odd, "mail/a", "bad\nname", ""}, Values: []backends.SecretString{"", " \n", backends.SecretString(odd + "\n"), "ab"},
		Reason: "found " + odd + " in\n\ta \x1b[31mfile\x00; abacus", Source: "scanner " + odd, URL: "https://user:" + canary + "@example.com/%63/" + strings.ReplaceAll(canary, "4", "%34") + "%2f+%20&/x?token=" + canary + "#" + canary,
	}.Clean()
	if len(e.Values) != 2 {
		t.Errorf("%d values", len(e.Values))
	}
	if !slices.Equal(e.Secrets, []string{"mail/a"}) {
		t.Errorf("secrets %q", e.Secrets)
	}
	if e.Reason != "found [value] in  a [31mfile; abacus" || e.URL != "https://example.com/c/%5Bvalue%5D/x" {
		t.Errorf("reason %q, URL %q", e.Reason, e.URL)
	}
	shown := fmt.Sprintf("%v %+v %#v", e, e, e)
	if text, err := json.Marshal(e); err != nil || strings.Contains(string(text)+shown, canary) {
		t.Errorf("%s (%v)", text, err)
	}
}

func TestCleanBounds(t *testing.T) {
	long := strings.Repeat("ü", 5000)
	names, labels := make([]string, 2000), map[string]string{}
	for i := range names {
		names[i] = fmt.Sprint("secret/", i)
		labels[fmt.Sprint(i)] = "x"
	}
	e := inbound.Event{ID: long + "1", Reason: long, Source: long, URL: "https://example.com/" + long, Secrets: append(names, long), Labels: labels}.Clean()
	if len(e.ID) > 256 || len(e.Reason) > 1024 || len(e.Source) > 256 || len(e.URL) > 1024 || len(e.Secrets) > 1000 || slices.Contains(e.Secrets, long) {
		t.Errorf("%d %d %d %d %d", len(e.ID), len(e.Reason), len(e.Source), len(e.URL), len(e.Secrets))
	}
	if e.Labels != nil {
		t.Errorf("%d labels: some were left out, which means more secrets", len(e.Labels))
	}
	if other := (inbound.Event{ID: long + "2"}).Clean(); other.ID == e.ID {
		t.Error("two ids have become one")
	}
	if !utf8.ValidString(e.Reason) || !strings.HasSuffix(e.Reason, "…") {
		t.Errorf("cut to %q", e.Reason[len(e.Reason)-8:])
	}
	if one := (inbound.Event{Labels: map[string]string{"team": "growth"}}).Clean(); one.Labels["team"] != "growth" {
		t.Errorf("labels %v", one.Labels)
	}
}

func TestLink(t *testing.T) {
	for given, want := range map[string]string{
		"https://example.com/a/b?token=x#y": "https://example.com/a/b",
		"http://u:p@example.com":            "http://example.com",
		"javascript:alert(1)":               "",
		"ftp://example.com/":                "",
		"/relative":                         "",
		"https://":                          "",
		"":                                  "",
		"https://exa mple.com":              "",
	} {
		if got := inbound.Link(given); got != want {
			t.Errorf("%q: %q", given, got)
		}
	}
}

// FuzzClean: whatever is said, what is kept is bounded, valid, and cleaned already.
func FuzzClean(f *testing.F) {
	f.Add("id", "name", canary, "reason "+canary, "https://example.com/"+canary)
	f.Add("\xff", "\u2028", "a\u0301bcdef", strings.Repeat("…", 400), "https://[::1]:80/%zz")
	f.Fuzz(func(t *testing.T, id, name, value, reason, link string) {
		e := inbound.Event{ID: id, Secrets: []string{name}, Values: []backends.SecretString{backends.SecretString(value)}, Reason: reason, URL: link}.Clean()
		for _, text := range append(slices.Clone(e.Secrets), e.ID, e.Reason, e.URL) {
			if !utf8.ValidString(text) || len(text) > 1024 || strings.ContainsAny(text, "\n\r\x00\x1b") {
				t.Errorf("kept %q", text)
			}
		}
		again := e.Clean()
		if again.ID != e.ID || again.Reason != e.Reason || !slices.Equal(again.Secrets, e.Secrets) {
			t.Errorf("cleaned twice: %q %q %q, %q %q %q", e.ID, e.Reason, e.Secrets, again.ID, again.Reason, again.Secrets)
		}
	})
}

// FuzzDecode: what is taken is one JSON document of bounded depth.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[1,"]"]}`, strings.Repeat("[", 70), `"\\"`, `{"a":1}{}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var doc any
		if err := inbound.Decode(body, &doc); err != nil {
			return
		}
		if !json.Valid(body) || depth(doc) > 64 {
			t.Errorf("%q was taken", body)
		}
	})
}

func depth(doc any) int {
	deepest := 0
	switch doc := doc.(type) {
	case []any:
		for _, one := range doc {
			deepest = max(deepest, depth(one))
		}
		return deepest + 1
	case map[string]any:
		for _, one := range doc {
			deepest = max(deepest, depth(one))
		}
		return deepest + 1
	}
	return 0
}
