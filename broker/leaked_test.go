package broker

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

// What leaks is found in whatever it stands.
func TestCandidatesOfALeak(t *testing.T) {
	t.Parallel()
	const key, odd = "kb_live_S3cr3tS3cr3t0123456789", "p@ss:w0rd/with?odd#signs"
	pem := "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\n-----END PRIVATE KEY-----\n"
	raw := "\x00\x01\x02\xff\xfe\xfd rawbytes 0123"
	b64 := base64.StdEncoding.EncodeToString
	document := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"bare":                    {key, key},
		"with a line's end":       {key + "\r\n", key},
		"between lines":           {"hello\n" + key + "\nbye", key},
		"quoted":                  {`  "` + key + `"  `, key},
		"single quotes":           {`'` + key + `'`, key},
		"environment file":        {"# stripe\nexport STRIPE_KEY=" + key + "\n", key},
		"with a comment":          {"STRIPE_KEY=" + key + " # do not lose", key},
		"with quotes":             {`STRIPE_KEY="` + key + `";`, key},
		"yaml":                    {"stripe:\n  key: " + key + "\n", key},
		"yaml list":               {"- key: '" + key + "'", key},
		"header":                  {"Authorization: Bearer " + key, key},
		"command":                 {"curl -H 'X-Key: " + key + "' https://example.com", key},
		"log line":                {`level=error msg="login with ` + key + ` failed"`, key},
		"sentence":                {"I pasted " + key + ". Sorry!", key},
		"ruby":                    {`key => "` + key + `",`, key},
		"hcl":                     {`api_key = "` + key + `"`, key},
		"json":                    {document(map[string]any{"a": []any{1, nil, map[string]string{"k": key}}}), key},
		"json in json":            {document(map[string]string{"body": document(map[string]string{"k": key})}), key},
		"json line":               {"noise\n" + document(map[string]string{"k": key}), key},
		"number":                  {`{"pin": 1234567890}`, "1234567890"},
		"url":                     {"postgres://shop:" + key + "@db.example.com/shop?sslmode=require", key},
		"url in a setting":        {"DATABASE_URL=postgres://shop:" + key + "@db/shop", key},
		"url of a git remote":     {"https://" + key + "@git.example.com/shop.git", key},
		"url with no password":    {"https://" + key + ":@api.example.com", key},
		"url, escaped":            {"postgres://shop:p%40ss%3Aw0rd%2Fwith%3Fodd%23signs@db/shop", odd},
		"url, not escaped":        {"postgres://shop:" + odd + "@db/shop", odd},
		"url's parameter":         {"https://example.com/?token=" + key + "&x=1", key},
		"base64":                  {b64([]byte(key)), key},
		"base64 for URLs":         {base64.RawURLEncoding.EncodeToString([]byte(key)), key},
		"base64 of a file":        {b64([]byte("STRIPE_KEY=" + key + "\n")), key},
		"kubernetes":              {"apiVersion: v1\ndata:\n  key: " + b64([]byte(key)), key},
		"basic auth":              {"Authorization: Basic " + b64([]byte("shop:"+key)), key},
		"binary":                  {b64([]byte(raw)), raw},
		"binary kept in base64":   {strings.TrimRight(base64.URLEncoding.EncodeToString([]byte(raw)), "="), b64([]byte(raw))},
		"pem":                     {strings.TrimSpace(pem), pem},
		"pem from Windows":        {strings.ReplaceAll(pem, "\n", "\r\n"), pem},
		"pem in json":             {document(map[string]string{"k": pem}), pem},
		"pem among others":        {"key is\n" + pem + "that was it", pem},
		"after a byte order mark": {"\uFEFFKEY=" + key, key},
	} {
		if got := candidates(tt.text); !slices.Contains(got, tt.want) {
			t.Errorf("%s: %q is not among %q", name, tt.want, got)
		}
	}
	var long strings.Builder
	for i := range 300 {
		fmt.Fprintf(&long, "SETTING_%d=value-number-%d\n", i, i)
	}
	if got := candidates(long.String() + "LAST_KEY=" + key + "\n"); !slices.Contains(got, key) {
		t.Errorf("the last of 300 settings is none of %d candidates", len(got))
	}
	if got := candidates("  short  "); got != nil {
		t.Errorf("of what is too short: %q", got)
	}
	if got := candidates(key); got[0] != key {
		t.Errorf("the text itself is not the first: %q", got)
	}
}

// However much there is, it is bounded, and ends soon.
func TestCandidatesAreBounded(t *testing.T) {
	t.Parallel()
	var lines strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&lines, "KEY_%d=value-number-%d\n", i, i)
	}
	for name, text := range map[string]string{
		"lines":          lines.String(),
		"nesting":        strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000),
		"short words":    strings.Repeat("a b ", 100_000),
		"links":          strings.Repeat("x://a:b@c ", 40_000),
		"wrapped deeply": wrapped("KEY=the-secret-itself", 8),
		"long lines":     strings.Repeat(strings.Repeat("long ", 12_000)+"\n", 10) + strings.Repeat("x", 1<<20),
	} {
		if got := candidates(text); len(got) > maxCandidates || len(strings.Join(got, "")) > maxTogether {
			t.Errorf("%s: %d candidates, %d bytes", name, len(got), len(strings.Join(got, "")))
		}
	}
}

func wrapped(text string, times int) string {
	for range times {
		text = base64.StdEncoding.EncodeToString([]byte(text))
	}
	return text
}

// Whatever the text: no candidate is short or there twice, and a value is found again in
// all that programs commonly write it into.
func FuzzCandidates(f *testing.F) {
	for _, seed := range []string{"", "KEY=value-of-it", `{"a":"secret-value"}`, "postgres://u:password1@h/d", "c2VjcmV0LXZhbHVlLWl0c2VsZg==", "-----BEGIN A-----\nx\n-----END A-----", "\"\\u0000\\ud800\"", "a://@", "='"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := candidates(text)
		seen := map[string]bool{}
		for _, c := range got {
			if len(c) < minCandidate || seen[c] {
				t.Errorf("%q is too short or there twice", c)
			}
			seen[c] = true
		}
		if len(got) > maxCandidates {
			t.Errorf("%d candidates", len(got))
		}
		value := strings.TrimSpace(strings.TrimPrefix(strings.ToValidUTF8(text, ""), "\uFEFF"))
		if len(value) < minCandidate || len(value) > maxCandidate/2 || strings.TrimSpace(value) != value {
			return
		}
		quoted, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		for name, in := range map[string]string{
			"itself": value, "a string": string(quoted), "a document": `{"a":[` + string(quoted) + `]}`,
			"a file": "\n" + value + "\n", "base64": base64.StdEncoding.EncodeToString([]byte(value)),
		} {
			if !slices.Contains(candidates(in), value) {
				t.Errorf("%q is not found in %s", value, name)
			}
		}
	})
}

// What stands in a value that was reported is as secret as the value.
func TestCleanedOfWhatStandsInItsValues(t *testing.T) {
	in := cleaned(inbound.Event{ID: "1", Values: []backends.SecretString{"DB_PASSWORD=canarycanary9"}, Secrets: []string{"DB_PASSWORD"},
		Reason: "found canarycanary9 in a repository", Source: "scanner of canarycanary9", URL: "https://git.example.com/canarycanary9"})
	if text := in.Reason + in.Source + in.URL; strings.Contains(text, "canary") || !strings.Contains(in.Reason, "in a repository") {
		t.Errorf("it is kept as %q", text)
	}
	if len(in.Values) != 1 || len(in.Secrets) != 1 {
		t.Errorf("%d values, %d secrets", len(in.Values), len(in.Secrets))
	}
}
