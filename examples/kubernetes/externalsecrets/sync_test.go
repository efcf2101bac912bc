package externalsecrets_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/examples/kubernetes/apiserver"
	"github.com/keybroker/keybroker/examples/kubernetes/externalsecrets"
)

const (
	account = "keybroker/keybroker-sync"
	secret  = "payments/stripe"
)

// site is a cluster with the example's manifests and other ExternalSecrets, and a syncer
// there with the rights of the manifests alone.
type site struct {
	*externalsecrets.Syncer
	server *apiserver.Server
	log    *bytes.Buffer
}

func start(t *testing.T) site {
	t.Helper()
	server := apiserver.Start(t, "../deploy/keybroker-sync.yaml", "../deploy/externalsecret.yaml", "testdata/objects.yaml")
	log := new(bytes.Buffer)
	return site{server: server, log: log, Syncer: &externalsecrets.Syncer{
		Cluster:    connect(t, server.Access(t, account)),
		Namespaces: []string{"payments"},
		Prefixes:   []string{"secret/", "secret/data/"},
		Log:        slog.New(slog.NewTextHandler(log, nil)),
	}}
}

func connect(t *testing.T, a externalsecrets.Access) *externalsecrets.Cluster {
	t.Helper()
	cluster, err := externalsecrets.Connect(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

func (s site) sync(t *testing.T, secret string, generation int64) {
	t.Helper()
	if err := s.Sync(t.Context(), news(secret, generation)); err != nil {
		t.Error(err)
	}
}

// news is the only message about a generation.
func news(secret string, generation int64) externalsecrets.News {
	return externalsecrets.News{Message: fmt.Sprintf("m%d", generation), Secret: secret, Generation: generation}
}

// marks are the annotations of the ExternalSecrets in payments.
func (s site) marks(t *testing.T) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, name := range []string{"stripe", "extracted", "both", "found", "unrelated"} {
		m[name] = s.server.Get(t, "payments", name).Metadata.Annotations["force-sync"]
	}
	return m
}

func (s site) expect(t *testing.T, want map[string]string) {
	t.Helper()
	if got := s.marks(t); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRefreshesWhatRefersToTheSecret(t *testing.T) {
	s := start(t)
	before := map[string]string{}
	for name := range s.marks(t) {
		before[name] = s.server.Get(t, "payments", name).Status.SyncedResourceVersion
	}
	s.sync(t, secret, 12)
	s.expect(t, map[string]string{
		"stripe": secret + ":12:m12", "extracted": secret + ":12:m12", "both": secret + ":12:m12", "found": secret + ":12:m12", "unrelated": "",
	})
	for name, old := range before {
		refreshed := s.server.Get(t, "payments", name).Status.SyncedResourceVersion != old
		if refreshed != (name != "unrelated") {
			t.Errorf("%s: refreshed is %v", name, refreshed)
		}
	}
	if team := s.server.Get(t, "payments", "extracted").Metadata.Annotations["team"]; team != "payments" {
		t.Errorf("an annotation of somebody else is %q now", team)
	}
	for _, p := range s.server.Patches(t) {
		if p.Status != http.StatusOK || !strings.Contains(p.Body, `"resourceVersion":"`) || strings.Contains(p.Body, `"spec"`) {
			t.Errorf("got %+v", p)
		}
	}
}

func TestRepeatedMessagesChangeNothing(t *testing.T) {
	s := start(t)
	s.sync(t, secret, 12)
	before, patches := s.server.Get(t, "payments", "stripe"), len(s.server.Patches(t))
	s.sync(t, secret, 12)
	after := s.server.Get(t, "payments", "stripe")
	if after.Metadata.ResourceVersion != before.Metadata.ResourceVersion || len(s.server.Patches(t)) != patches {
		t.Error("something was changed")
	}
	s.sync(t, secret, 13)
	if got := s.marks(t)["stripe"]; got != secret+":13:m13" {
		t.Errorf("got %q", got)
	}
	// Without what a refresh is told from, it is asked for anew.
	s.server.Patch(t, "payments", "stripe", "", "application/merge-patch+json", `{"metadata":{"annotations":{"keybroker.dev/refreshed-before":null}}}`)
	s.sync(t, secret, 13)
	if got := s.server.Get(t, "payments", "stripe").Metadata.Annotations["keybroker.dev/refreshed-before"]; got == "" {
		t.Error("nothing was asked for")
	}
}

// TestGenerationsBeginAgain: a broker that was set up anew, or restored, counts from a
// lower generation on, and may even come by the same one. Its messages are news.
func TestGenerationsBeginAgain(t *testing.T) {
	s := start(t)
	s.sync(t, secret, 12)
	for _, n := range []externalsecrets.News{{Message: "another12", Secret: secret, Generation: 12}, {Message: "another1", Secret: secret, Generation: 1}} {
		before := s.server.Get(t, "payments", "stripe").Status.SyncedResourceVersion
		if err := s.Sync(t.Context(), n); err != nil {
			t.Error(err)
		}
		if s.server.Get(t, "payments", "stripe").Status.SyncedResourceVersion == before {
			t.Errorf("%+v: not refreshed", n)
		}
	}
	s.Wait = time.Nanosecond
	s.server.PauseOperator(t, true)
	if err := s.Sync(t.Context(), news(secret, 2)); !notRefreshed(err) {
		t.Errorf("the refresh of another message is taken for this one's: %v", err)
	}
}

// TestEachSecretHasItsMark: an ExternalSecret of two secrets is refreshed for each of them.
func TestEachSecretHasItsMark(t *testing.T) {
	s := start(t)
	s.sync(t, secret, 12)
	s.sync(t, "payments/db", 5)
	if got := s.marks(t)["both"]; got != "payments/db:5:m5 payments/stripe:12:m12" {
		t.Errorf("got %q", got)
	}
}

// TestOtherTenants: a store knows of no tenant, so a secret of any has the same key there.
func TestOtherTenants(t *testing.T) {
	s := start(t)
	s.sync(t, secret, 12)
	s.sync(t, "acme:"+secret, 3)
	s.sync(t, "acme:"+secret, 3)
	const both = "acme:payments/stripe:3:m3 payments/stripe:12:m12"
	s.expect(t, map[string]string{"stripe": both, "extracted": both, "both": both, "found": both, "unrelated": ""})
	if n := len(s.server.Patches(t)); n != 8 {
		t.Errorf("%d patches", n)
	}
	s.Named = map[string][]externalsecrets.Name{"orders/key": {{Namespace: "payments", Name: "unrelated"}}}
	s.sync(t, "acme:orders/key", 4)
	if got := s.marks(t)["unrelated"]; got != "acme:orders/key:4:m4" {
		t.Errorf("got %q", got)
	}
}

func TestNamedNeedsNoList(t *testing.T) {
	s := start(t)
	s.Namespaces = nil
	s.Named = map[string][]externalsecrets.Name{secret: {{Namespace: "named", Name: "templated"}}}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	s.sync(t, secret, 12)
	if got := s.server.Get(t, "named", "templated").Metadata.Annotations["force-sync"]; got != secret+":12:m12" {
		t.Errorf("got %q", got)
	}
	if err := s.Sync(t.Context(), news("payments/db", 1)); !errors.Is(err, externalsecrets.ErrNone) {
		t.Errorf("got %v", err)
	}
	if n := len(s.server.Patches(t)); n != 1 {
		t.Errorf("%d patches", n)
	}
	s.Named[secret] = append(s.Named[secret], externalsecrets.Name{Namespace: "named", Name: "another"})
	if err := s.Sync(t.Context(), news(secret, 13)); err == nil || !strings.Contains(err.Error(), "named/another: the service account may not do this") {
		t.Errorf("got %v", err)
	}
	if got := s.server.Get(t, "named", "templated").Metadata.Annotations["force-sync"]; got != secret+":13:m13" {
		t.Errorf("what could be done was not: %q", got)
	}
}

func TestSomebodyElseInBetween(t *testing.T) {
	s := start(t)
	s.Namespaces, s.Named = nil, map[string][]externalsecrets.Name{secret: {{Namespace: "payments", Name: "stripe"}}}
	s.server.Interfere(t)
	s.sync(t, secret, 12)
	statuses := func() (all []int) {
		for _, p := range s.server.Patches(t) {
			all = append(all, p.Status)
		}
		return all
	}
	if got := statuses(); !slices.Equal(got, []int{409, 200}) {
		t.Errorf("got %v", got)
	}
	for range 5 {
		s.server.Interfere(t)
	}
	if err := s.Sync(t.Context(), news(secret, 13)); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("got %v after %v", err, statuses())
	}
	s.sync(t, secret, 13)
	if got := s.marks(t)["stripe"]; got != secret+":13:m13" {
		t.Errorf("got %q", got)
	}
}

// TestFailuresAreSaid: and none of them keeps what could be done from being done.
func TestFailuresAreSaid(t *testing.T) {
	s := start(t)
	s.Namespaces = []string{"foreign", "payments"}
	err := s.Sync(t.Context(), news(secret, 1))
	if err == nil || !strings.Contains(err.Error(), "the ExternalSecrets of foreign: the service account may not do this") ||
		!strings.Contains(err.Error(), `User "system:serviceaccount:keybroker:keybroker-sync" cannot list`) {
		t.Errorf("got %v", err)
	}
	if got := s.marks(t)["stripe"]; got != secret+":1:m1" {
		t.Errorf("got %q", got)
	}
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "foreign") {
		t.Errorf("got %v", err)
	}
	s.Namespaces = []string{"payments"}
	for generation, c := range map[int64]struct {
		method string
		status int
		says   string
	}{
		2: {http.MethodGet, 429, "answers 429"},
		3: {http.MethodGet, 404, "is the External Secrets Operator, 0.16 or newer, installed?"},
		4: {http.MethodGet, 401, "does not know the service account's token"},
		5: {http.MethodPatch, 500, "answers 500"},
		6: {http.MethodPatch, 403, "the service account may not do this"},
		7: {http.MethodPatch, 302, "answers 302"},
	} {
		s.server.Fail(t, c.method, c.status)
		if err := s.Sync(t.Context(), news(secret, generation)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %d: got %v", c.method, c.status, err)
		}
	}
	s.sync(t, secret, 8)
}

// TestNobodyRefreshesIt: that nothing was there to refresh is no success, or a mistyped
// prefix would be the cluster's consent to revoke what it uses.
func TestNobodyRefreshesIt(t *testing.T) {
	s := start(t)
	err := s.Sync(t.Context(), news("nobodys/key", 1))
	if !errors.Is(err, externalsecrets.ErrNone) || !strings.Contains(err.Error(), `no ExternalSecret refers to the secret nobodys/key in the namespaces ["payments"]`) {
		t.Errorf("got %v", err)
	}
	s.Namespaces = []string{"named"} // where the manifests give no right to list
	if err := s.Sync(t.Context(), news(secret, 1)); err == nil || errors.Is(err, externalsecrets.ErrNone) {
		t.Errorf("what cannot be searched is said to have none: %v", err)
	}
	s.Namespaces, s.AllowNone = []string{"payments"}, true
	s.sync(t, "nobodys/key", 1)
	if !strings.Contains(s.log.String(), "no ExternalSecret refers to the secret nobodys/key") {
		t.Errorf("got %s", s.log)
	}
}

// TestDeletedMeanwhile: whether another copy is left, the repetition finds out.
func TestDeletedMeanwhile(t *testing.T) {
	s := start(t)
	s.server.Fail(t, http.MethodPatch, 404)
	if err := s.Sync(t.Context(), news(secret, 9)); err == nil || !strings.Contains(err.Error(), "answers 404") {
		t.Errorf("got %v", err)
	}
	s.sync(t, secret, 9)
}

// TestWhatTheOperatorNeverRefreshes goes on with the old value, so it is no success.
func TestWhatTheOperatorNeverRefreshes(t *testing.T) {
	s := start(t)
	s.Namespaces, s.Wait = []string{"frozen", "payments"}, time.Minute
	whys := []string{"frozen/once: the operator never refreshes it", "refreshPolicy is CreatedOnce", "frozen/zero", "refreshInterval is 0"}
	err := s.Sync(t.Context(), news(secret, 12))
	if !errors.Is(err, externalsecrets.ErrFrozen) {
		t.Errorf("got %v", err)
	}
	if got := s.marks(t)["stripe"]; got != secret+":12:m12" {
		t.Errorf("what could be done was not: %q", got)
	}
	patches := len(s.server.Patches(t))
	s.Namespaces, s.AllowNone = []string{"frozen"}, true
	s.sync(t, secret, 12)
	for _, why := range whys {
		if !strings.Contains(fmt.Sprint(err), why) || !strings.Contains(s.log.String(), why) {
			t.Errorf("%q is missing in %v or %s", why, err, s.log)
		}
	}
	if p := s.server.Patches(t); len(p) != patches {
		t.Errorf("got %v", p)
	}
}

// notRefreshed tells whether the operator was seen not to have done it yet, which is not
// that nobody could look.
func notRefreshed(err error) bool {
	return errors.Is(err, externalsecrets.ErrNotRefreshed) && strings.HasSuffix(err.Error(), externalsecrets.ErrNotRefreshed.Error())
}

func TestWaitsForTheRefresh(t *testing.T) {
	s := start(t)
	s.Wait = time.Nanosecond
	s.server.PauseOperator(t, true)
	for range 2 { // the second time nothing is left to be marked
		if err := s.Sync(t.Context(), news(secret, 12)); !notRefreshed(err) || !strings.Contains(err.Error(), "payments/") {
			t.Errorf("got %v", err)
		}
	}
	s.server.PauseOperator(t, false)
	s.Wait = time.Minute
	s.sync(t, secret, 12)

	s.server.PauseOperator(t, true)
	done := make(chan error, 1)
	go func() { done <- s.Sync(t.Context(), news(secret, 13)) }()
	for s.marks(t)["found"] != secret+":13:m13" || s.marks(t)["stripe"] != secret+":13:m13" {
		select {
		case err := <-done:
			t.Fatalf("not waited for: %v", err)
		default:
		}
	}
	s.server.PauseOperator(t, false)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRefreshThatBeganBefore: one that was under way when the object was marked may have
// read the old value, whatever the time is that it notes.
func TestRefreshThatBeganBefore(t *testing.T) {
	s := start(t)
	s.Namespaces, s.Named = nil, map[string][]externalsecrets.Name{secret: {{Namespace: "payments", Name: "stripe"}}}
	s.server.PauseOperator(t, true)
	s.sync(t, secret, 12)
	before := s.server.Get(t, "payments", "stripe").Status.RefreshTime
	s.server.FinishRefresh(t, "payments", "stripe")
	if s.server.Get(t, "payments", "stripe").Status.RefreshTime == before {
		t.Fatal("no refresh has ended")
	}
	s.Wait = time.Nanosecond
	if err := s.Sync(t.Context(), news(secret, 12)); !notRefreshed(err) {
		t.Errorf("got %v", err)
	}
	s.Wait = time.Minute
	s.server.PauseOperator(t, false)
	s.sync(t, secret, 12)
}

// TestMarksThatAreTakenAway: by the controller of ClusterExternalSecrets. Without them, a
// refresh is told by its time.
func TestMarksThatAreTakenAway(t *testing.T) {
	s := start(t)
	s.Namespaces, s.Named = nil, map[string][]externalsecrets.Name{secret: {{Namespace: "payments", Name: "stripe"}}}
	s.server.StripAnnotations(t, true)
	s.Wait = time.Nanosecond
	if err := s.Sync(t.Context(), news(secret, 12)); !notRefreshed(err) {
		t.Errorf("got %v", err)
	}
	if got := s.server.Get(t, "payments", "stripe").Metadata.Annotations; len(got) != 0 {
		t.Errorf("got %v", got)
	}
	s.Wait = time.Minute
	patches, done := len(s.server.Patches(t)), make(chan error, 1)
	go func() { done <- s.Sync(t.Context(), news(secret, 12)) }()
	for len(s.server.Patches(t)) == patches {
		select {
		case err := <-done:
			t.Fatalf("not waited for: %v", err)
		default:
		}
	}
	s.server.FinishRefresh(t, "payments", "stripe")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestManyExternalSecrets takes more than one page.
func TestManyExternalSecrets(t *testing.T) {
	var all strings.Builder
	for i := range 600 {
		fmt.Fprintf(&all, "---\napiVersion: external-secrets.io/v1\nkind: ExternalSecret\nmetadata: {name: many-%03d, namespace: payments}\n"+
			"spec: {data: [{secretKey: key, remoteRef: {key: secret-%d}}]}\n", i, i)
	}
	file := filepath.Join(t.TempDir(), "many.yaml")
	if err := os.WriteFile(file, []byte(all.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	server := apiserver.Start(t, "../deploy/keybroker-sync.yaml", file)
	s := externalsecrets.Syncer{Cluster: connect(t, server.Access(t, account)), Namespaces: []string{"payments"}, Log: slog.New(slog.DiscardHandler)}
	for _, i := range []int{0, 249, 250, 599} {
		if err := s.Sync(t.Context(), news(fmt.Sprintf("secret-%d", i), 1)); err != nil {
			t.Error(err)
		}
		if len(server.Get(t, "payments", fmt.Sprintf("many-%03d", i)).Metadata.Annotations) == 0 {
			t.Errorf("%d was not found", i)
		}
	}
}

// TestTokenIsReadAgain: the kubelet replaces it; and it is in no error.
func TestTokenIsReadAgain(t *testing.T) {
	s := start(t)
	access := s.server.Access(t, account)
	good, err := os.ReadFile(access.TokenFile)
	if err != nil {
		t.Fatal(err)
	}
	s.Cluster = connect(t, access)
	for _, c := range []struct{ token, says string }{
		{"canary-c0de", "does not know the service account's token"},
		{"canary-c0de\nagain", "invalid header"},
		{string(good), ""},
	} {
		if err := os.WriteFile(access.TokenFile, []byte(c.token), 0o600); err != nil {
			t.Fatal(err)
		}
		err := s.Sync(t.Context(), news(secret, 1))
		if c.says == "" {
			if err != nil {
				t.Error(err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v", err)
		}
	}
	if err := os.Remove(access.TokenFile); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context(), news(secret, 2)); err == nil || !strings.Contains(err.Error(), "reading the service account's token") {
		t.Errorf("got %v", err)
	}
	if strings.Contains(s.log.String(), strings.TrimSpace(string(good))) {
		t.Error("the token is in the log")
	}
}

func TestConnect(t *testing.T) {
	server := apiserver.Start(t)
	other := apiserver.Start(t, "../deploy/keybroker-sync.yaml")
	good := other.Access(t, account)
	foreign := good
	foreign.CAFile = filepath.Join(t.TempDir(), "ca.crt")
	if text, err := os.ReadFile(server.CAFile()); err != nil || os.WriteFile(foreign.CAFile, text, 0o600) != nil {
		t.Fatal(err)
	}
	s := externalsecrets.Syncer{Cluster: connect(t, foreign), Namespaces: []string{"payments"}}
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
	for says, change := range map[string]func(*externalsecrets.Access){
		"the API server's address is not https": func(a *externalsecrets.Access) { a.Server = "http://127.0.0.1:1" },
		"holds no PEM certificate":              func(a *externalsecrets.Access) { a.CAFile = good.TokenFile },
		"reading the API server's authority":    func(a *externalsecrets.Access) { a.CAFile = "" },
	} {
		a := good
		change(&a)
		if _, err := externalsecrets.Connect(a); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v", err)
		}
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := externalsecrets.InCluster(); err == nil || !strings.Contains(err.Error(), "this is no pod") {
		t.Errorf("got %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	a, err := externalsecrets.InCluster()
	if err != nil || a.Server != "https://[fd00::1]:443" || a.TokenFile != "/var/run/secrets/kubernetes.io/serviceaccount/token" {
		t.Errorf("got %+v, %v", a, err)
	}
}
