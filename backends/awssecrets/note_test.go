package awssecrets_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

func TestWritingNeedsNoRightToTags(t *testing.T) {
	s := motoserver.SharedGuarded(t)
	key := s.User(t, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Resource":"*","Action":[
		"secretsmanager:CreateSecret","secretsmanager:DescribeSecret","secretsmanager:GetSecretValue","secretsmanager:ListSecrets",
		"secretsmanager:ListSecretVersionIds","secretsmanager:PutSecretValue","secretsmanager:UpdateSecretVersionStage"]}]}`)
	cfg := config(s.URL, "eu-central-1")
	cfg.Conn.AccessKeyID, cfg.Conn.SecretAccessKey = backends.SecretString(key.ID), backends.SecretString(key.Secret)
	d := open(t, cfg)
	first := publish(t, d, 1, "")
	second := publish(t, d, 2, first)
	if err := d.Retire(t.Context(), ref, first); err != nil {
		t.Error(err)
	}
	desc, err := d.Describe(t.Context(), ref)
	if err != nil || desc.Current != second || desc.Note != (backends.Note{Of: first, Version: 1, Generation: 10}) {
		t.Errorf("described as %+v, %v", desc, err) // the note is one write behind
	}
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	s.DeleteKey(t, key)
	wantClass(t, "checking with a deleted key", d.Check(t.Context()), backends.ErrDenied)
}

// tagging stands before AWS and does something to each request for tags.
func tagging(t *testing.T, to string, act func(w http.ResponseWriter, r *http.Request, body string) (answered bool)) (address string) {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".TagResource") || !act(w, r, string(body)) {
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// A right that is missing for one secret, or for a while, is no reason to leave out
// everybody's notes for ever.
func TestRefusedTagsAreTriedAgain(t *testing.T) {
	s := motoserver.Shared(t)
	var asked atomic.Int32
	var granted atomic.Bool
	d := open(t, config(tagging(t, s.URL, func(w http.ResponseWriter, _ *http.Request, body string) bool {
		if !strings.Contains(body, name) {
			return false
		}
		if asked.Add(1); granted.Load() {
			return false
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"__type":"AccessDeniedException","Message":"not authorized to perform: secretsmanager:TagResource"}`)
		return true
	}), s.Region()))
	note := func(ref backends.Ref, want int) {
		t.Helper()
		if desc, err := d.Describe(t.Context(), ref); err != nil || desc.Note.Version != want {
			t.Errorf("the note of %s is %+v, %v, want one of version %d", ref, desc.Note, err, want)
		}
	}
	id := publish(t, d, 2, publish(t, d, 1, ""))
	id = publish(t, d, 3, id)
	if note(ref, 1); asked.Load() != 1 {
		t.Errorf("refused tags were tried %d times, want once", asked.Load())
	}
	other := backends.Ref{Tenant: ref.Tenant, Name: "payments/paypal"}
	first, err := d.Publish(t.Context(), other, write(1, ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Publish(t.Context(), other, write(2, first)); err != nil {
		t.Fatal(err)
	}
	note(other, 2)

	granted.Store(true)
	later := time.Now().Add(61 * time.Minute)
	d.SetNow(func() time.Time { return later })
	publish(t, d, 5, publish(t, d, 4, id))
	if note(ref, 5); asked.Load() != 3 {
		t.Errorf("tags were tried %d times in all, want 3", asked.Load())
	}
}

// The note is not worth the time that its write has.
func TestTagsThatHangDoNotHoldAWriteUp(t *testing.T) {
	s := motoserver.Shared(t)
	d := open(t, config(tagging(t, s.URL, func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		<-r.Context().Done()
		return true
	}), s.Region()))
	first := publish(t, d, 1, "")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	second, err := d.Publish(ctx, ref, write(2, first))
	if err != nil || ctx.Err() != nil {
		t.Errorf("published as %q, %v; the time is up: %v", second, err, ctx.Err())
	}
	if v, id, err := d.Read(t.Context(), ref, ""); err != nil || id != second || !v.Equal(write(2, "").Value) {
		t.Errorf("read version %q, %v", id, err)
	}
}
