package policy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/policy"
)

func TestBindings(t *testing.T) {
	var claims map[string]any
	d := json.NewDecoder(strings.NewReader(`{"groups": ["dev", "on-call"], "team": "mail", "verified": true, "level": 3, "user": 9007199254740993, "deep": {"groups": "dev"}, "lists": [["dev"]], "none": null, "empty": []}`))
	d.UseNumber()
	if err := d.Decode(&claims); err != nil {
		t.Fatal(err)
	}
	person := policy.Known{Method: "corp", Subject: "alice", Claims: claims}
	service := policy.Known{Method: "mesh", Subject: "CN=app,O=Example", SPIFFEID: "spiffe://example.com/ns/mail/app", CommonName: "app",
		DNSNames: []string{"app.example.com", "App.Internal", "*.wild.example"}}
	is := func(name string, any ...string) policy.Binding {
		return policy.Binding{Method: "corp", Claims: map[string][]string{name: any}}
	}
	for name, tt := range map[string]struct {
		b    policy.Binding
		of   policy.Known
		want bool
	}{
		"nothing set":             {policy.Binding{Method: "corp"}, person, false},
		"nothing at all":          {policy.Binding{}, policy.Known{}, false},
		"no method":               {policy.Binding{Subject: "alice"}, policy.Known{Subject: "alice"}, false},
		"another method":          {policy.Binding{Method: "mesh", Subject: "alice"}, person, false},
		"subject":                 {policy.Binding{Method: "corp", Subject: "alice"}, person, true},
		"another subject":         {policy.Binding{Method: "corp", Subject: "alic"}, person, false},
		"a subject's case":        {policy.Binding{Method: "corp", Subject: "Alice"}, person, false},
		"an element of a claim":   {is("groups", "ops", "on-call"), person, true},
		"no element of a claim":   {is("groups", "ops", "call"), person, false},
		"a claim":                 {is("team", "mail"), person, true},
		"a claim of no values":    {is("team"), person, false},
		"a claim that is missing": {is("department", ""), person, false},
		"null":                    {is("none", "", "null", "<nil>"), person, false},
		"an empty list":           {is("empty", ""), person, false},
		"a truth":                 {is("verified", "true"), person, true},
		"a number":                {is("level", "3"), person, true},
		"a number above 2^53":     {is("user", "9007199254740993"), person, true},
		"the float64 next to it":  {is("user", "9007199254740992"), person, false},
		"an object":               {is("deep", "dev", "map[groups:dev]"), person, false},
		"a list in a list":        {is("lists", "dev", "[dev]"), person, false},
		"both of two claims":      {policy.Binding{Method: "corp", Claims: map[string][]string{"groups": {"dev"}, "team": {"mail"}}}, person, true},
		"one of two claims":       {policy.Binding{Method: "corp", Claims: map[string][]string{"groups": {"dev"}, "team": {"web"}}}, person, false},
		"a claim but no subject":  {policy.Binding{Method: "corp", Subject: "bob", Claims: map[string][]string{"groups": {"dev"}}}, person, false},

		"SPIFFE ID":                      {policy.Binding{Method: "mesh", SPIFFEID: "spiffe://example.com/ns/mail/app"}, service, true},
		"SPIFFE ID of its beginning":     {policy.Binding{Method: "mesh", SPIFFEID: "spiffe://example.com/ns/mail"}, service, false},
		"below":                          {policy.Binding{Method: "mesh", SPIFFEID: "spiffe://example.com/ns/*"}, service, true},
		"right below":                    {policy.Binding{Method: "mesh", SPIFFEID: "spiffe://example.com/ns/mail/*"}, service, true},
		"below itself":                   {policy.Binding{Method: "mesh", SPIFFEID: "spiffe://example.com/ns/mail/app/*"}, service, false},
		"below another name":             {policy.Binding{Method: "mesh", SPIFFEID: "spiffe://example.com/ns/ma/*"}, service, false},
		"a star within a segment":        {policy.Binding{Method: "mesh", SPIFFEID: "spiffe://example.com/ns/ma*"}, service, false},
		"another trust domain":           {policy.Binding{Method: "mesh", SPIFFEID: "spiffe://example.org/*"}, service, false},
		"any SPIFFE ID, where none is":   {policy.Binding{Method: "mesh", SPIFFEID: "spiffe://example.com/*"}, policy.Known{Method: "mesh", CommonName: "app"}, false},
		"DNS name":                       {policy.Binding{Method: "mesh", DNSName: "APP.example.com"}, service, true},
		"the other DNS name":             {policy.Binding{Method: "mesh", DNSName: "app.internal"}, service, true},
		"one label":                      {policy.Binding{Method: "mesh", DNSName: "*.example.com"}, service, true},
		"two labels":                     {policy.Binding{Method: "mesh", DNSName: "*.com"}, service, false},
		"no label":                       {policy.Binding{Method: "mesh", DNSName: "*.app.example.com"}, service, false},
		"a certificate for all of them":  {policy.Binding{Method: "mesh", DNSName: "*.wild.example"}, service, false},
		"common name":                    {policy.Binding{Method: "mesh", CommonName: "app"}, service, true},
		"another common name":            {policy.Binding{Method: "mesh", CommonName: "ap"}, service, false},
		"the whole subject":              {policy.Binding{Method: "mesh", Subject: "CN=app,O=Example"}, service, true},
		"common name, other SPIFFE ID":   {policy.Binding{Method: "mesh", CommonName: "app", SPIFFEID: "spiffe://example.com/other"}, service, false},
		"common name, DNS and SPIFFE ID": {policy.Binding{Method: "mesh", CommonName: "app", DNSName: "app.example.com", SPIFFEID: "spiffe://example.com/ns/mail/app"}, service, true},
	} {
		if got := tt.b.Matches(tt.of); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
