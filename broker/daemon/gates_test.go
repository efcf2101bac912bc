package daemon_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// gatedSecrets are secrets of a policy of which two rotate at once, four of them in a pair.
const gatedSecrets = 8

func gatedHCL() string {
	hcl := strings.NewReplacer(`overlap = "2s"`, `overlap = "300ms"`, `window     = "2s"`, `window     = "0s"`).Replace(withConsumer(embedded, nil)) + `
rotation_policy "few" {
  match {
    paths = ["many/*"]
  }
  max_concurrent = 2
  overlap        = "300ms"
}
`
	for i := range gatedSecrets {
		pair := ""
		if i%2 == 0 {
			pair = "  pair = \"twins\"\n"
		}
		hcl += fmt.Sprintf("secret \"many/key%d\" {\n  backend = \"embedded\"\n%s  issuer \"internal\" {}\n  probe = \"internal\"\n}\n", i, pair)
	}
	return hcl
}

// TestPairsAndPoliciesKeepRotationsApart on either database, and on two nodes: all are
// asked for at once, and each has its turn.
func TestPairsAndPoliciesKeepRotationsApart(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		keptApart(t, []*node{newSite(t, gatedHCL()).start()})
	})
	t.Run("postgresql", func(t *testing.T) {
		t.Parallel()
		url, shared := postgresserver.Start(t).URL, filepath.Join(t.TempDir(), "seal.key")
		if _, err := seal.CreateFile(shared); err != nil {
			t.Fatal(err)
		}
		var nodes []*node
		var first *site
		for range 2 {
			s := newSite(t, onPostgres(gatedHCL(), shared))
			s.env = map[string]string{"DATABASE_URL": url}
			if first == nil {
				first = s
			} else {
				s.token = first.rootToken()
			}
			nodes = append(nodes, s.start())
		}
		keptApart(t, nodes)
	})
}

func keptApart(t *testing.T, nodes []*node) {
	t.Helper()
	ctx := t.Context()
	var all []client.Rotation
	for range 2 { // the first versions replace nothing
		var mu sync.Mutex
		var ids []string
		var asking sync.WaitGroup
		for i := range gatedSecrets {
			asking.Go(func() {
				r, err := nodes[i%len(nodes)].Rotate(ctx, fmt.Sprintf("many/key%d", i), client.RotateRequest{})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				ids = append(ids, r.ID)
			})
		}
		asking.Wait()
		for _, id := range ids {
			var r client.Rotation
			eventually(t, "the end of the rotation "+id, func() bool { r = must(nodes[0].Rotation(ctx, id))(t); return r.Ended() })
			if r.State != client.RotationDone {
				t.Errorf("it is %s: %s", r.State, r.Error)
			}
			all = append(all, r)
		}
	}
	if most := atOnce(all, "publish"); most != 2 {
		t.Errorf("%d rotations of the policy were under way at once, want 2", most)
	}
	twins := slices.DeleteFunc(slices.Clone(all), func(r client.Rotation) bool {
		return !slices.Contains([]string{"many/key0", "many/key2", "many/key4", "many/key6"}, r.Secret)
	})
	if most := atOnce(twins, "overlap"); len(twins) != gatedSecrets || most != 1 {
		t.Errorf("%d of the %d rotations of the pair were under way at once", most, len(twins))
	}
}

// atOnce is how many rotations were at most between the beginning of their mint and the
// end of a step, or of their publication where they have no such step.
func atOnce(all []client.Rotation, until string) (most int) {
	type turn struct {
		at   time.Time
		more int
	}
	var turns []turn
	for _, r := range all {
		var from, to time.Time
		for _, s := range r.Steps {
			switch s.Step {
			case "mint":
				from = s.StartedAt
			case "publish", until:
				to = s.EndedAt
			}
		}
		turns = append(turns, turn{from, 1}, turn{to, -1})
	}
	slices.SortFunc(turns, func(a, b turn) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return a.more - b.more
	})
	n := 0
	for _, turn := range turns {
		n += turn.more
		most = max(most, n)
	}
	return most
}

// TestAnIssuerThatKeepsFailingIsTold: by an alert, readiness and a metric, until it is
// configured anew.
func TestAnIssuerThatKeepsFailingIsTold(t *testing.T) {
	t.Parallel()
	o := newOperated(t)
	for i := range 4 {
		o.hcl += fmt.Sprintf("\nsecret \"mail/s%d\" {\n  backend = \"prod\"\n  probe   = \"mailer\"\n  issuer \"mailer\" {\n    scopes = [\"send\"]\n  }\n}\n", i)
	}
	o.adjust = func(opts *daemon.Options) { opts.LookForAlerts(50 * time.Millisecond) }
	o.node = o.start()
	ctx := t.Context()
	up := func() string {
		_, body := o.get(http.MethodGet, "/metrics", o.rootToken())
		for line := range strings.Lines(body) {
			if value, ok := strings.CutPrefix(line, `keybroker_issuer_up{issuer="mailer"} `); ok {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	if up() != "1" {
		t.Errorf("the metric is %q", up())
	}
	o.api.Override(minted, http.StatusUnauthorized, always)
	for i := range 4 {
		must(o.Rotate(ctx, fmt.Sprintf("mail/s%d", i), client.RotateRequest{}))(t)
	}
	open := func() []client.Alert { return o.alerts(t, client.AlertQuery{Kind: "issuer_down"}) }
	eventually(t, "the alert", func() bool { return len(open()) == 1 })
	if a := open()[0]; !strings.HasPrefix(a.Subject, "mailer on ") || !strings.Contains(a.Text, "issuer mailer keeps failing; rotations that need it wait") {
		t.Errorf("it is %+v", a)
	}
	if status, body := o.get(http.MethodGet, "/readyz", ""); status != http.StatusOK || !strings.Contains(body, `"notices":["an issuer keeps failing"]`) || up() != "0" {
		t.Errorf("ready is %d %s, and the metric %q", status, body, up())
	}
	o.api.Override(minted, 0, 0)
	o.hcl = replaced(t, o.hcl, `revocation_budget = "3s"`, `revocation_budget = "4s"`)
	must(o.Reload(ctx, client.ReloadRequest{}))(t)
	eventually(t, "its end", func() bool { return len(open()) == 0 })
	if up() != "1" {
		t.Errorf("the metric is %q", up())
	}
}
