package backends_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
)

// written gives a text as answers may quote it.
var written = map[string]func(string) string{
	"as it is": func(s string) string { return s },
	"as JSON":  func(s string) string { return asJSON(s) },
	"JSON twice": func(s string) string {
		return asJSON(map[string]string{"SecretString": asJSON(map[string]string{"key": s})})
	},
	"five times": func(s string) string { return asJSON(asJSON(asJSON(asJSON(asJSON(s))))) },
	"as ASCII":   strconv.QuoteToASCII,
	"as Go":      func(s string) string { return fmt.Sprintf("%q", s) },
	"in base64":  func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"in a URL":   url.QueryEscape,
	"in a path":  url.PathEscape,
	"in one line": func(s string) string {
		return strings.Join(strings.Fields(asJSON(s)), " ")
	},
}

func asJSON(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

var awkward = []string{
	"canary-71f3ab", `"canary"-71f3ab"`, `canary\71f3\ab\`, `\canary\name\table\u0041\`, "-----BEGIN-----\ncanary\n71f3ab\n",
	"c\na\"n\\a\tr\ny\n", "{{<canary&71f3ab>}}", "пароль-é-密碼-😀", `{"key":"canary\n71f3ab"}`, `\\\\canary\\\\\\71f3ab`, "pin4",
}

func TestQuotes(t *testing.T) {
	for _, text := range awkward {
		for how, write := range written {
			said := "cannot take '" + write(text) + `' for {"Name":"x\\y"}`
			if !backends.Quotes(said, text) {
				t.Errorf("%s: %s does not quote %q", how, said, text)
			}
		}
	}
}

func TestQuotesAPart(t *testing.T) {
	pem := "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIBAQC7\n-----END PRIVATE KEY-----\n"
	for _, part := range []string{asJSON(pem)[:40] + "…", "ANBgkqhk", `AQEF\\nAASC`, base64.StdEncoding.EncodeToString([]byte(pem))[20:60]} {
		if !backends.Quotes("cannot take "+part, pem) {
			t.Errorf("%s is not seen to quote a key", part)
		}
	}
}

func TestQuotesNothing(t *testing.T) {
	for _, said := range []string{
		"", "The security token included in the request is invalid.", `Value at 'secretString' failed: \"too\\long\"`, `\`, `\u`, `\u12`, `\ud83d\u`, `\x`,
	} {
		for _, text := range append(awkward, "", "n", "too") {
			if backends.Quotes(said, text) {
				t.Errorf("%q quotes %q", said, text)
			}
		}
	}
}

// However a text is escaped, it is found.
func FuzzQuotes(f *testing.F) {
	for _, text := range awkward {
		f.Add(text, uint8(2))
	}
	f.Fuzz(func(t *testing.T, text string, times uint8) {
		said := strings.ToValidUTF8(text, "")
		if text != said || !backends.Quotes(text, text) { // too short, or of what is left out
			t.Skip()
		}
		for range times % 4 {
			said = asJSON(said)
		}
		if !backends.Quotes("x "+said+" y", text) {
			t.Errorf("%q does not quote %q", said, text)
		}
	})
}
