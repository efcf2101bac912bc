package keyserver_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

type made struct{ ID, Secret string }

func call(t *testing.T, method, url, token, body string) (int, made) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, made{}
	}
	defer func() { _ = resp.Body.Close() }()
	var m made
	_ = json.NewDecoder(resp.Body).Decode(&m)
	return resp.StatusCode, m
}

func create(t *testing.T, s *keyserver.Server, name string) (int, made) {
	t.Helper()
	return call(t, "POST", s.URL+"/v1/keys", s.AdminToken, `{"name":"`+name+`"}`)
}

func me(t *testing.T, s *keyserver.Server, secret string) int {
	t.Helper()
	status, _ := call(t, "GET", s.URL+"/v1/me", secret, "")
	return status
}

func TestRevocationLatencyAndFlapping(t *testing.T) {
	s := keyserver.Start(t)
	now := time.Unix(1000, 0)
	s.SetClock(func() time.Time { return now })
	s.SetRevocationLatency(time.Minute)
	_, k := create(t, s, "a")
	if status, _ := call(t, "DELETE", s.URL+"/v1/keys/"+k.ID, s.AdminToken, ""); status != http.StatusNoContent {
		t.Fatalf("revoking: status %d", status)
	}
	if got := me(t, s, k.Secret); got != 200 || !s.Works(k.Secret) {
		t.Errorf("within the latency: status %d", got)
	}
	s.SetFlapping(3)
	var got []int
	for range 5 {
		got = append(got, me(t, s, k.Secret))
	}
	if want := []int{200, 401, 200, 200, 401}; !slices.Equal(got, want) {
		t.Errorf("flapping: got %v, want %v", got, want)
	}
	now = now.Add(time.Minute)
	if got := me(t, s, k.Secret); got != 401 || s.Works(k.Secret) {
		t.Errorf("after the latency: status %d", got)
	}
	if err := s.Resurrect(k.ID); err != nil || me(t, s, k.Secret) != 200 {
		t.Errorf("resurrected: %v", err)
	}
}

func TestFaults(t *testing.T) {
	s := keyserver.Start(t)
	s.SetMaxLive(2)
	s.DropCreates(1)
	if status, _ := create(t, s, "lost"); status != 0 || len(s.Live()) != 1 {
		t.Errorf("dropped: status %d, %d live", status, len(s.Live()))
	}
	s.Override("POST /v1/keys", 503, 1)
	if status, _ := create(t, s, "x"); status != 503 || len(s.Live()) != 1 {
		t.Errorf("overridden: status %d, %d live", status, len(s.Live()))
	}
	if status, k := create(t, s, "second"); status != 201 || !s.Works(k.Secret) {
		t.Errorf("second: status %d", status)
	}
	if status, _ := create(t, s, "third"); status != 409 {
		t.Errorf("beyond max_live: status %d", status)
	}
	if got := s.Requests("POST /v1/keys"); got != 4 {
		t.Errorf("%d creates were counted", got)
	}
	if status, _ := call(t, "GET", s.URL+"/v1/keys", "wrong", ""); status != 401 {
		t.Errorf("wrong token: status %d", status)
	}
}
