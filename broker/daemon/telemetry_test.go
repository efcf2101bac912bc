package daemon_test

import (
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// TestMetricsAreNotForEverybody: they take the right to read them, and none of them
// names a secret.
func TestMetricsAreNotForEverybody(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil)+`
policy "scraper" {
  path "sys/metrics" {
    capabilities = ["read"]
  }
}
`)
	n := s.start()
	n.done(t, "app/key")
	scraper, err := n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "scraper", Policies: []string{"scraper"}})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "reader", Policies: []string{"reader"}})
	if err != nil {
		t.Fatal(err)
	}
	bound, err := n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "bound", Policies: []string{"scraper"}, Tenant: "default"})
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[client.SecretText]int{"": 401, "kbt_wrong": 401, reader.Token: 403, bound.Token: 403, scraper.Token: 200} {
		status, text := s.get("GET", "/metrics", token.Reveal())
		if status != want {
			t.Errorf("%d, want %d: %s", status, want, text)
		}
		if strings.Contains(text, "app/key") {
			t.Error("a metric names a secret")
		}
	}
}

func TestMetricsOfTheirOwnListener(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil)+`
telemetry {
  address      = "127.0.0.1:0"
  secret_names = true
}
`)
	var d *daemon.Daemon
	s.opened = func(opened *daemon.Daemon) { d = opened }
	n := s.start()
	n.done(t, "app/key")
	resp, err := http.Get("http://" + d.Telemetry() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if want := `keybroker_secret_current_version_age_seconds{secret="app/key",tenant="default"} `; resp.StatusCode != 200 || !strings.Contains(string(text), want) {
		t.Errorf("%d, without %s", resp.StatusCode, want)
	}
	if status, _ := s.get("GET", "/metrics", s.rootToken()); status != 404 {
		t.Errorf("on the API: %d", status)
	}
	other, err := http.Get("http://" + d.Telemetry() + "/api/v1/secrets")
	if err != nil {
		t.Fatal(err)
	}
	if _ = other.Body.Close(); other.StatusCode != 404 {
		t.Errorf("the API on the metrics' listener: %d", other.StatusCode)
	}
}

// TestManyConnectionsAreNoticed, and keep nobody out.
func TestManyConnectionsAreNoticed(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil)+`
telemetry {
  address = "127.0.0.1:0"
}
`)
	var d *daemon.Daemon
	s.opened = func(opened *daemon.Daemon) { d = opened }
	s.start()
	for range 100 {
		c, err := net.Dial("tcp", d.Telemetry())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	scrape := func() string {
		resp, err := http.Get("http://" + d.Telemetry() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	eventually(t, "the connections that are beyond to be closed", func() bool {
		of := regexp.MustCompile(`(?m)^keybroker_connections_closed_total\{limit="address"\} (\S+)$`).FindStringSubmatch(scrape())
		if of == nil {
			return false
		}
		n, err := strconv.Atoi(of[1])
		return err == nil && n >= 100-64
	})
	if text := scrape(); !regexp.MustCompile(`(?m)^keybroker_connections \d+$`).MatchString(text) {
		t.Error("there is no metric of the listener's connections")
	}
	if n := strings.Count(s.log.String(), "there are too many connections"); n != 1 {
		t.Errorf("the log tells of it %d times", n)
	}
}

func TestMetricsSwitchedOff(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil)+`
telemetry {
  prometheus = false
}
`)
	s.start()
	if status, _ := s.get("GET", "/metrics", s.rootToken()); status != 404 {
		t.Errorf("%d", status)
	}
}
