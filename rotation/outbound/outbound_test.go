package outbound_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/outbound/outboundtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const canary = "canary-7f3a9c"

func client(t *testing.T, opts outbound.Options) *outbound.Client {
	t.Helper()
	c, err := outbound.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func get(t *testing.T, c *outbound.Client, url string) (outbound.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Do(req)
}

func TestCheckAddr(t *testing.T) {
	const never, private, public = "never", "private", "public"
	for addr, want := range map[string]string{
		"169.254.169.254":        never,
		"169.254.1.1":            never,
		"::ffff:169.254.169.254": never,
		"64:ff9b::a9fe:a9fe":     never, // NAT64 of 169.254.169.254
		"2002:a9fe:a9fe::1":      never, // 6to4 of it
		"::a9fe:a9fe":            never, // IPv4-compatible form of it
		"64:ff9b:1::a9fe:a9fe":   never,
		"2001:0:53aa:64c::1":     never, // Teredo
		"fe80::1":                never,
		"fe80::1%eth0":           never,
		"febf::1":                never,
		"fd00:ec2::254":          never,
		"fd20:ce::254":           never,
		"100.100.100.200":        never,
		"168.63.129.16":          never,
		"0.0.0.0":                never,
		"::":                     never,
		"224.0.0.1":              never,
		"ff02::1":                never,
		"255.255.255.255":        never,
		"127.0.0.1":              private,
		"127.8.8.8":              private,
		"::1":                    private,
		"::ffff:127.0.0.1":       private,
		"64:ff9b::7f00:1":        private,
		"2002:0a00:0001::1":      private,
		"10.1.2.3":               private,
		"172.31.255.255":         private,
		"192.168.0.1":            private,
		"100.64.0.1":             private,
		"fd12::1":                private,
		"8.8.8.8":                public,
		"172.32.0.1":             public,
		"169.253.255.255":        public,
		"2606:4700::1111":        public,
		"64:ff9b::808:808":       public,
		"2002:808:808::1":        public,
		"::ffff:8.8.8.8":         public,
	} {
		a := netip.MustParseAddr(addr)
		strict, lenient := outbound.CheckAddr(a, false), outbound.CheckAddr(a, true)
		if got := strict == nil; got != (want == public) {
			t.Errorf("%s: without private networks: %v, want it %s", addr, strict, want)
		}
		if got := lenient == nil; got != (want != never) {
			t.Errorf("%s: with private networks: %v, want it %s", addr, lenient, want)
		}
		if strict != nil && !errors.Is(strict, backends.ErrDenied) {
			t.Errorf("%s: class of %v is not denied", addr, strict)
		}
	}
}

// FuzzCheckAddr: however an IPv4 address is dressed up, it is judged as itself.
func FuzzCheckAddr(f *testing.F) {
	f.Add([]byte{169, 254, 169, 254}, false)
	f.Add([]byte{127, 0, 0, 1}, true)
	f.Fuzz(func(t *testing.T, b []byte, allow bool) {
		if len(b) != 4 {
			return
		}
		v4 := netip.AddrFrom4([4]byte(b))
		if outbound.CheckAddr(v4, allow) == nil {
			return
		}
		forms := [][16]byte{
			{10: 0xff, 11: 0xff, 12: b[0], 13: b[1], 14: b[2], 15: b[3]},
			{0, 0x64, 0xff, 0x9b, 12: b[0], 13: b[1], 14: b[2], 15: b[3]},
			{0x20, 0x02, b[0], b[1], b[2], b[3], 15: 1},
		}
		for _, form := range forms {
			if a := netip.AddrFrom16(form); outbound.CheckAddr(a, allow) == nil {
				t.Errorf("%s is refused, %s is not", v4, a)
			}
		}
	})
}

func TestRefusesByResolvedAddress(t *testing.T) {
	var hits atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())

	strict := client(t, outbound.Options{})
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		_, err := get(t, strict, "http://"+host+":"+port+"/?k="+canary)
		var refused *outbound.RefusedError
		if !errors.As(err, &refused) || !refused.Private {
			t.Errorf("%s: got %v, want a refusal", host, err)
		}
		if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the URL is in the error", host)
		}
	}
	lenient := client(t, outbound.Options{AllowPrivate: true})
	if _, err := get(t, lenient, "http://169.254.169.254/latest/meta-data/"); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("cloud metadata: got %v, want a refusal", err)
	}
	if _, err := get(t, lenient.At("169.254.169.254:80"), srv.URL); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("cloud metadata as pinned address: got %v, want a refusal", err)
	}
	if hits.Load() != 0 {
		t.Fatal("a refused request reached the server")
	}
	if resp, err := get(t, lenient, srv.URL); err != nil || resp.Status != 200 {
		t.Fatalf("allowed: %v, %v", resp.Status, err)
	}
}

func TestFollowsNoRedirectAndNoProxy(t *testing.T) {
	var hits atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		w.Header().Set("X-Agent", r.UserAgent())
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer srv.Close()
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	c := client(t, outbound.Options{AllowPrivate: true, UserAgent: outbound.ProbeUserAgent})
	resp, err := get(t, c, srv.URL)
	if err != nil || resp.Status != http.StatusFound || hits.Load() != 1 {
		t.Fatalf("got %d, %v after %d requests", resp.Status, err, hits.Load())
	}
	if got := resp.Header.Get("X-Agent"); got != "keybroker-probe/1" {
		t.Errorf("the user agent was %q", got)
	}
	if resp.Address != srv.Listener.Addr().String() {
		t.Errorf("the address is %q", resp.Address)
	}
}

func TestConnections(t *testing.T) {
	var opened atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	for _, tt := range []struct {
		name  string
		fresh bool
		want  int32
	}{{"kept", false, 1}, {"fresh", true, 3}} {
		opened.Store(0)
		c := client(t, outbound.Options{AllowPrivate: true, FreshConnections: tt.fresh})
		for range 3 {
			if _, err := get(t, c, srv.URL); err != nil {
				t.Fatal(err)
			}
		}
		if got := opened.Load(); got != tt.want {
			t.Errorf("%s: %d connections for 3 requests, want %d", tt.name, got, tt.want)
		}
	}
}

func TestPinnedAddressKeepsHostAndServerName(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.Host + " " + r.TLS.ServerName))
	}))
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	c := client(t, outbound.Options{AllowPrivate: true, CAFile: ca})
	resp, err := get(t, c.At(srv.Listener.Addr().String()), "https://example.com/")
	if err != nil || string(resp.Body) != "example.com example.com" {
		t.Fatalf("got %q, %v", resp.Body, err)
	}
	_, err = get(t, client(t, outbound.Options{AllowPrivate: true}), srv.URL)
	if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("without the CA: %v", err)
	}
}

func TestCAFileMistakes(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, empty + ".missing"} {
		if _, err := outbound.New(outbound.Options{CAFile: file}); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%s: %v, want invalid", file, err)
		}
	}
}

// Every failure is ErrUnavailable with a text that holds nothing of the URL or
// the answer, where credentials stand.
func TestFailuresCarryNoSecret(t *testing.T) {
	raw := func(answer string) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				buf := make([]byte, 4096)
				_, _ = conn.Read(buf)
				_, _ = conn.Write([]byte(answer))
				_ = conn.Close()
			}
		}()
		t.Cleanup(func() { _ = l.Close(); <-done })
		return "http://" + l.Addr().String()
	}
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer silent.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, tt := range map[string]struct{ url, want string }{
		"garbage":         {raw(canary + " " + canary + "\r\n\r\n"), "no valid HTTP answer"},
		"bad header":      {raw("HTTP/1.1 200 OK\r\n" + canary + "\r\n\r\n"), "no valid HTTP answer"},
		"closed":          {raw(""), "closed without an answer"},
		"cut body":        {raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + canary), "closed within the answer"},
		"too large":       {raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + strings.Repeat("x", 99)), "larger than allowed"},
		"timeout":         {silent.URL, "deadline exceeded"},
		"refused":         {gone.URL, "connection refused"},
		"TLS to plain":    {strings.Replace(silent.URL, "http:", "https:", 1), "TLS"},
		"unknown host":    {"http://no-such-host.invalid", "unavailable"},
		"too large chunk": {raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + strings.Repeat("x", 64) + "\r\n0\r\n\r\n"), "larger than allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := outbound.Options{AllowPrivate: true}
			switch name {
			case "timeout", "unknown host":
				opts.Timeout = 200 * time.Millisecond
			case "too large", "too large chunk":
				opts.MaxBody = 50
			}
			c := client(t, opts)
			_, err := get(t, c, tt.url+"/"+canary+"?k="+canary)
			if !errors.Is(err, backends.ErrUnavailable) {
				t.Fatalf("got %v, want unavailable", err)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the canary is in %q", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, want %q in it", err, tt.want)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	c := client(t, outbound.Options{AllowPrivate: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:1/", nil)
	if _, err := c.Do(req); !errors.Is(err, context.Canceled) || !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestResolve(t *testing.T) {
	got, err := outbound.Resolve(t.Context(), "127.0.0.1", "8080")
	if err != nil || len(got) != 1 || got[0] != "127.0.0.1:8080" {
		t.Errorf("literal: %v, %v", got, err)
	}
	if got, err := outbound.Resolve(t.Context(), "localhost", "1"); err != nil || len(got) == 0 {
		t.Errorf("localhost: %v, %v", got, err)
	}
	outboundtest.Names(t, map[string][]string{"api.test": {"127.0.0.2", "127.0.0.1", "127.0.0.2"}})
	got, err = outbound.Resolve(t.Context(), "api.test", "8080")
	if want := "[127.0.0.1:8080 127.0.0.2:8080]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("several addresses: %v, %v, want %s", got, err, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := outbound.Resolve(ctx, "no-such-host.invalid", "1"); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("unknown host: %v", err)
	}
}
