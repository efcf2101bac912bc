package httpapi_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

const bearer = `
auth "bearer" {
  token = secret()
}
`

const oauth2 = `
auth "oauth2" {
  token_url     = "BASE/oauth/token"
  client_id     = "keybroker"
  client_secret = secret()
  scopes        = ["keys"]
  audience      = "keyserver"
}
`

const hmac = `
auth "hmac" {
  key              = secret()
  sign             = "${request.timestamp}\n${request.method}\n${request.target}\n${request.body_digest}"
  header           = "X-Signature"
  timestamp_header = "X-Timestamp"
}
`

const check = `
check {
  path = "/v1/keys?name=none"
}
`

// variant is one way to describe the same API.
type variant struct {
	auth  string
	pages string // of find; empty: one page has all
	key   func(*keyserver.Server) string
}

func (v variant) source(url string) string {
	src := strings.Replace(mailer, strings.TrimSpace(bearer), strings.TrimSpace(v.auth), 1) + check
	if v.pages != "" {
		src = strings.Replace(src, "keys?name=${rotation.tag}\"", "keys?name=rot\"\n"+v.pages, 1)
	}
	return strings.ReplaceAll(src, "BASE", url)
}

var variants = map[string]variant{
	"bearer": {bearer, "", func(s *keyserver.Server) string { return s.AdminToken }},
	"oauth2": {oauth2, `pages "cursor" {
    path      = "$.next_cursor"
    more      = "$.has_more"
    parameter = "after"
  }`, func(s *keyserver.Server) string { return s.ClientSecret }},
	"hmac":   {hmac, `pages "link" {}`, func(s *keyserver.Server) string { return s.SigningKey }},
	"url":    {bearer, `pages "url" { path = "$.next" }`, func(s *keyserver.Server) string { return s.AdminToken }},
	"number": {bearer, `pages "number" { parameter = "page" }`, func(s *keyserver.Server) string { return s.AdminToken }},
}

func harness(t *testing.T, v variant) issuertest.Harness {
	s := keyserver.Start(t)
	s.SetMaxLive(5)
	if v.pages != "" {
		s.SetPageSize(1)
	}
	wrong, key := "wrong-"+canary, v.key(s)
	proxy := faultproxy.New(t, s.URL)
	routes := []string{"POST /v1/keys", "GET /v1/keys", "DELETE /v1/keys/{id}", "POST /oauth/token"}
	h := issuertest.Harness{
		Issuer:      mustLoad(t, v.source(proxy.URL), key),
		Denied:      mustLoad(t, v.source(s.URL), wrong),
		Unreachable: mustLoad(t, v.source(nobody(t)), key),
		Subject:     subject,
		Others: []issuer.Subject{
			{Ref: backends.Ref{Tenant: "other", Name: "mail/sender"}, Settings: subject.Settings},
		},
		Live: func() []string {
			var tags []string
			for _, k := range s.Live() {
				tags = append(tags, k.Name)
			}
			return tags
		},
		Works:      func(v backends.Value) bool { return s.Works(v.Reveal()["key"]) },
		Limited:    true,
		LoseAnswer: func() { s.DropCreates(1) },
		Outage: func(on bool) {
			for _, r := range routes {
				s.Override(r, http.StatusServiceUnavailable, map[bool]int{true: -1}[on])
			}
		},
		Hang: func(on bool) {
			if proxy.Set(); on {
				proxy.Set(faultproxy.Rule{Fault: faultproxy.Latency(time.Hour)})
			}
		},
		Cut: issuertest.CutHTTP(t, s.URL, func(url string) issuer.Issuer { return mustLoad(t, v.source(url), key) }),
		Refused: func(req issuer.Request) issuer.Request {
			req.Subject.Settings = json.RawMessage(`{"scopes":"no list"}`)
			return req
		},
		Secrets: []string{s.AdminToken, s.ClientSecret, s.SigningKey, wrong},
	}
	if v.auth == oauth2 {
		h.Expire = s.ForgetTokens
	}
	return h
}

func TestConformance(t *testing.T) {
	for name, v := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuertest.Run(t, func(t *testing.T) issuertest.Harness { return harness(t, v) })
		})
	}
}

// What is on the last of many pages is found, and what cannot be seen whole is no "none".
func TestFindOnManyPages(t *testing.T) {
	for name, v := range variants {
		if v.pages == "" {
			continue
		}
		s := keyserver.Start(t)
		s.SetPageSize(3)
		s.MakeMany("rot-other-", 20)
		s.Make("rot-wanted")
		is := mustLoad(t, v.source(s.URL), v.key(s)).(issuer.Finder)
		found, err := is.Find(t.Context(), subject, "rot-wanted")
		if err != nil || len(found) != 1 || found[0].Handle["id"] != s.Live()[20].ID {
			t.Errorf("%s: found %v, %v", name, found, err)
		}
		s.MakeMany("rot-more-", 400)
		_, err = is.Find(t.Context(), subject, "rot-none")
		sameClass(t, name+": more pages than are read", 200, err, backends.ErrUnavailable)
		if name != "url" && name != "hmac" {
			continue
		}
		elsewhere := keyserver.Start(t)
		s.SetNext(elsewhere.URL + "/v1/keys")
		_, err = is.Find(t.Context(), subject, "rot-none")
		sameClass(t, name+": the next page is elsewhere", 200, err, backends.ErrInvalid)
		if elsewhere.Connections() != 0 {
			t.Errorf("%s: the other host was asked", name)
		}
	}
}

// A create is sent once, whatever becomes of the token; finding and revoking again.
func TestTokenThatEnded(t *testing.T) {
	s := keyserver.Start(t)
	is := mustLoad(t, variants["oauth2"].source(s.URL), s.ClientSecret)
	for range 2 {
		cred, err := is.Issue(t.Context(), issuer.Request{Subject: subject, Tag: "rot-1"})
		if err != nil {
			t.Fatal(err)
		}
		s.ForgetTokens()
		if err := is.Revoke(t.Context(), subject, cred.Handle); err != nil {
			t.Error(err)
		}
		s.ForgetTokens()
	}
	if creates, deletes := s.Requests("POST /v1/keys"), s.Requests("DELETE /v1/keys/{id}"); creates != 2 || deletes != 4 {
		t.Errorf("%d creates and %d deletes, want 2 and 4", creates, deletes)
	}
	s.Override("POST /v1/keys", http.StatusUnauthorized, -1)
	_, err := is.Issue(t.Context(), issuer.Request{Subject: subject, Tag: "rot-2"})
	sameClass(t, "a create that is not allowed", 401, err, backends.ErrDenied)
	if creates := s.Requests("POST /v1/keys"); creates != 3 {
		t.Errorf("%d creates, want 3", creates)
	}
}

func TestCheck(t *testing.T) {
	s := keyserver.Start(t)
	problems := func(src, key string) []string {
		var texts []string
		for _, f := range mustLoad(t, strings.ReplaceAll(src, "BASE", s.URL), key).(issuer.Checker).Check(t.Context(), subject) {
			if f.Problem != "" {
				texts = append(texts, map[bool]string{true: "unknown: "}[f.Unknown]+f.What)
			}
		}
		return texts
	}
	for _, tt := range []struct {
		src, key string
		want     []string
	}{
		{mailer + check, s.AdminToken, nil},
		{mailer, s.AdminToken, []string{"unknown: may create and revoke credentials"}},
		{without(mailer, "find"), s.AdminToken, []string{"unknown: may create and revoke credentials"}},
		{mailer + check, "wrong", []string{"the check request succeeds", "may look credentials up, and the answer is as described"}},
		{strings.Replace(mailer, "$.data", "$.items", 1) + check, s.AdminToken, []string{"may look credentials up, and the answer is as described"}},
		{variants["oauth2"].source("BASE"), "wrong", []string{"the API takes our credentials", "may look credentials up, and the answer is as described"}},
	} {
		if got := problems(tt.src, tt.key); !slices.Equal(got, tt.want) {
			t.Errorf("the check finds %q, want %q", got, tt.want)
		}
	}
	s.SetPageSize(1)
	s.MakeMany("other-", 1)
	all := strings.Replace(variants["url"].source("BASE"), "keys?name=rot", "keys", 1)
	if got := problems(all, s.AdminToken); len(got) != 0 {
		t.Errorf("a list that says how it goes on: %q", got)
	}
	if got := problems(strings.Replace(all, "$.next", "$.nxt", 1), s.AdminToken); !slices.Equal(got, []string{"unknown: the answer says whether there are more pages"}) {
		t.Errorf("a list that seems to end: %q", got)
	}
	s.Make("keybroker-check")
	if got := problems(mailer+check, s.AdminToken); len(got) != 1 {
		t.Errorf("somebody's credential with the tag of the check: %q", got)
	}
	if got := s.Requests("POST /v1/keys") + s.Requests("DELETE /v1/keys/{id}"); got != 0 {
		t.Errorf("%d requests with an effect", got)
	}
}
