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

func revoked(t *testing.T, s *keyserver.Server, account string) made {
	t.Helper()
	_, k := call(t, "POST", s.URL+"/v1/keys", s.AdminToken, `{"name":"old","account":"`+account+`"}`)
	if status, _ := call(t, "DELETE", s.URL+"/v1/keys/"+k.ID, s.AdminToken, ""); status != http.StatusNoContent {
		t.Fatalf("revoking: status %d", status)
	}
	return k
}

func TestLockout(t *testing.T) {
	s := keyserver.Start(t)
	now := time.Unix(1000, 0)
	s.SetClock(func() time.Time { return now })
	s.SetLockout(keyserver.Lockout{After: 3, Within: time.Minute, For: time.Hour, Status: http.StatusForbidden})
	dead := revoked(t, s, "acme")
	_, live := call(t, "POST", s.URL+"/v1/keys", s.AdminToken, `{"name":"new","account":"acme"}`)
	_, other := create(t, s, "other")
	tries := func(want ...int) {
		t.Helper()
		for i, status := range want {
			if got := me(t, s, dead.Secret); got != status {
				t.Errorf("try %d: status %d, want %d", i+1, got, status)
			}
		}
	}

	tries(401, 401)
	now = now.Add(time.Minute) // the first two count no more
	tries(401, 401)
	if me(t, s, live.Secret) != 200 || me(t, s, "guessed") != 401 || s.Locked("acme") || s.Lockouts() != 0 {
		t.Error("it is locked too early")
	}
	tries(401, 403, 403)
	if me(t, s, live.Secret) != 403 || !s.Locked("acme") || s.Lockouts() != 1 {
		t.Error("the live key of the account is not locked out")
	}
	if me(t, s, other.Secret) != 200 || me(t, s, s.Canary()) != 200 || !s.Works(live.Secret) {
		t.Error("another account is locked out")
	}
	now = now.Add(time.Hour)
	if me(t, s, live.Secret) != 200 || s.Locked("acme") {
		t.Error("the lock does not end")
	}
	tries(401, 401, 401, 403)
	if s.Lockouts() != 2 {
		t.Errorf("%d lockouts were counted", s.Lockouts())
	}
}

func TestLockoutInARow(t *testing.T) {
	s := keyserver.Start(t)
	s.SetLockout(keyserver.Lockout{After: 2, InARow: true})
	dead := revoked(t, s, "")
	_, live := create(t, s, "new")
	for range 3 {
		if me(t, s, dead.Secret) != 401 || me(t, s, live.Secret) != 200 {
			t.Error("rejected attempts with accepted ones between them count")
		}
	}
	var got []int
	for range 3 {
		got = append(got, me(t, s, dead.Secret))
	}
	if got = append(got, me(t, s, live.Secret)); !slices.Equal(got, []int{401, 401, 429, 429}) {
		t.Errorf("two in a row do not lock the account: got %v", got)
	}
}

func TestCanary(t *testing.T) {
	s := keyserver.Start(t)
	s.SetMaxLive(1)
	secret := s.Canary()
	if s.Canary() != secret || me(t, s, secret) != 200 || !s.Works(secret) || !slices.Contains(s.Secrets(), secret) {
		t.Error("the canary does not work")
	}
	if status, _ := create(t, s, "a"); status != 201 || len(s.Live()) != 1 {
		t.Errorf("with a canary: status %d, %d live", status, len(s.Live()))
	}
}

func TestStandingPerServer(t *testing.T) {
	s := keyserver.StartAt(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	dead := revoked(t, s, "")
	_, live := create(t, s, "new")
	s.SetStanding(s.Addresses[0], keyserver.RejectingAll)
	s.SetStanding(s.Addresses[1], keyserver.AcceptingAll)
	for i, want := range [][]int{{401, 401, 401}, {200, 200, 401}, {200, 401, 401}} {
		var got []int
		for _, secret := range []string{live.Secret, dead.Secret, "guessed"} {
			status, _ := call(t, "GET", "http://"+s.Addresses[i]+"/v1/me", secret, "")
			got = append(got, status)
		}
		if !slices.Equal(got, want) {
			t.Errorf("server %d answers %v to a live, a dead and an unknown key, want %v", i, got, want)
		}
	}
	s.SetStanding("", keyserver.RejectingAll)
	if status, _ := call(t, "GET", "http://"+s.Addresses[2]+"/v1/me", live.Secret, ""); status != 401 {
		t.Errorf("all others: status %d", status)
	}
	s.SetStanding(s.Addresses[0], keyserver.Judging)
	if me(t, s, live.Secret) != 200 || me(t, s, dead.Secret) != 401 {
		t.Error("the first server does not judge again")
	}
}
