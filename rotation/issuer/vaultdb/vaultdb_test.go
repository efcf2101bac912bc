package vaultdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vaultconn"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/vaultdb"
)

// logins are the ways to log in by which credentials must outlive the broker.
var logins = map[string]func(*site) vaultconn.Auth{
	"batch":   func(s *site) vaultconn.Auth { return s.appRole(vaultserver.AppRole{}) },
	"service": func(s *site) vaultconn.Auth { return s.appRole(vaultserver.AppRole{TokenType: "service"}) },
	"periodic": func(s *site) vaultconn.Auth {
		return s.token("auth/token/create-orphan", map[string]any{"period": "1h"})
	},
}

// A restart of the broker, in the middle of everything, ends no credential, and the
// broker can still end it afterwards.
func TestCredentialsOutliveTheBroker(t *testing.T) {
	for name, auth := range logins {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, vaultserver.Shared(t))
			cfg := s.config(auth(s))
			is := s.open(cfg)
			var made []issuer.Credential
			for i := range 2 {
				made = append(made, s.mustIssue(is, fmt.Sprintf("rot-%d", i)))
			}
			// A login that is no longer used is ended; so is a shared one that was found
			// to be dead, and replaced.
			if err := is.Revoke(t.Context(), subject("acme", "orders-ro"), s.nobody()); err != nil {
				t.Fatal(err)
			}
			closeIssuer(is)
			again := s.open(cfg)
			for _, cred := range made {
				if !s.works(cred.Value) {
					t.Fatal("a credential has ended with the broker")
				}
				if err := again.Revoke(t.Context(), subject("acme", "orders-ro"), cred.Handle); err != nil || s.works(cred.Value) {
					t.Errorf("revoking after a restart: %v", err)
				}
			}
			if left := s.leases(); len(left) != 0 {
				t.Errorf("Vault still holds %q", left)
			}
		})
	}
}

// However a login ends, a credential works until NotAfter, and NotAfter is told when it
// is made.
func TestNotAfter(t *testing.T) {
	const short = 4 * time.Second
	for name, tt := range map[string]struct {
		auth func(*site) vaultconn.Auth
		ttl  time.Duration // expected, from now
	}{
		"the lease ends first": {func(s *site) vaultconn.Auth {
			return s.appRole(vaultserver.AppRole{TokenTTL: 3 * time.Hour, TokenMaxTTL: 3 * time.Hour})
		}, time.Hour},
		// Vault tells an hour, but binds the lease to the token.
		"the batch token ends first": {func(s *site) vaultconn.Auth {
			return s.appRole(vaultserver.AppRole{TokenTTL: short})
		}, short},
		"the service token ends first": {func(s *site) vaultconn.Auth {
			return s.appRole(vaultserver.AppRole{TokenType: "service", TokenTTL: short})
		}, short},
		"the token's maximum comes first": {func(s *site) vaultconn.Auth {
			return s.appRole(vaultserver.AppRole{TokenType: "service", TokenMaxTTL: short})
		}, short},
		"the operator's token ends first": {func(s *site) vaultconn.Auth {
			return s.token("auth/token/create-orphan", map[string]any{"ttl": short.String(), "renewable": false})
		}, short},
		"a token without an end": {func(s *site) vaultconn.Auth {
			return vaultconn.Auth{Method: "token", Token: backends.SecretString(s.vault.RootToken)}
		}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, vaultserver.Shared(t))
			is := s.open(s.config(tt.auth(s)))
			before := time.Now()
			cred := s.mustIssue(is, "rot-1")
			life := cred.NotAfter.Sub(before)
			if life > tt.ttl+time.Second || life < tt.ttl-3*time.Second {
				t.Fatalf("it is to live %s, want %s", life, tt.ttl)
			}
			if tt.ttl != short {
				return
			}
			for time.Until(cred.NotAfter) > 200*time.Millisecond { // it works to the end, whoever asks for more meanwhile
				if !s.works(cred.Value) {
					t.Fatalf("it has ended %s before its time", time.Until(cred.NotAfter))
				}
				_ = is.Revoke(t.Context(), subject("acme", "orders-ro"), s.nobody())
				time.Sleep(100 * time.Millisecond)
			}
			for deadline := time.Now().Add(30 * time.Second); s.works(cred.Value); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("it goes on after its time: the token does not take it along")
				}
			}
			if time.Now().Before(cred.NotAfter) {
				t.Error("it ended before its time")
			}
		})
	}
}

// The shared login is renewed, ends, and is made anew, and no credential notices.
func TestSharedLoginEnds(t *testing.T) {
	s := newSite(t, vaultserver.Start(t)) // of its own: all logins of AppRole are revoked
	cfg := s.config(s.appRole(vaultserver.AppRole{}))
	is := s.open(cfg)
	cred := s.mustIssue(is, "rot-1")
	if err := s.vault.Client(t).Sys().RevokePrefixWithContext(t.Context(), "auth/approle/login"); err != nil {
		t.Fatal(err)
	}
	if !s.works(cred.Value) {
		t.Error("the credential has ended with other logins")
	}
	if err := is.Revoke(t.Context(), subject("acme", "orders-ro"), cred.Handle); err != nil || s.works(cred.Value) {
		t.Errorf("revoking by a new login: %v", err)
	}
}

// Vault is killed and comes back: it knows its leases.
func TestVaultIsRestarted(t *testing.T) {
	s := newSite(t, vaultserver.StartDurable(t))
	is := s.open(s.config(s.appRole(vaultserver.AppRole{})))
	cred := s.mustIssue(is, "rot-1")
	s.vault.Kill(t)
	_, err := is.Issue(t.Context(), issuer.Request{Subject: subject("acme", "orders-ro"), Tag: "rot-2"})
	wantClass(t, "issuing while Vault is down", err, backends.ErrUnavailable)
	if !errors.Is(err, issuer.ErrNotSent) {
		t.Errorf("nobody heard of it, but: %v", err)
	}
	wantClass(t, "revoking while Vault is down", is.Revoke(t.Context(), subject("acme", "orders-ro"), cred.Handle), backends.ErrUnavailable)
	if !s.works(cred.Value) {
		t.Error("the credential has ended with Vault")
	}
	s.vault.Restart(t)
	if err := is.Revoke(t.Context(), subject("acme", "orders-ro"), cred.Handle); err != nil || s.works(cred.Value) {
		t.Errorf("revoking after a restart: %v", err)
	}
}

func wantClass(t *testing.T, what string, err, class error) {
	t.Helper()
	if backends.Class(err) != class {
		t.Errorf("%s: got %v, want the class %v", what, err, class)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), canary) {
		t.Errorf("%s: the error gives a secret away", what)
	}
}

// Where the database does not drop the user, nothing is acknowledged, and the lease
// stays for another attempt.
func TestRevocationFailsAtTheDatabase(t *testing.T) {
	s := newSite(t, vaultserver.Shared(t))
	is := s.open(s.config(s.appRole(vaultserver.AppRole{})))
	cred := s.mustIssue(is, "rot-1")
	user := cred.Value.Reveal()["username"]
	s.postgres.Exec(t, `CREATE TABLE kept (id int)`)
	s.postgres.Exec(t, fmt.Sprintf(`ALTER TABLE kept OWNER TO %q`, user)) // so that it cannot be dropped
	for range 2 {
		err := is.Revoke(t.Context(), subject("acme", "orders-ro"), cred.Handle)
		wantClass(t, "revoking", err, backends.ErrUnavailable)
		if !strings.Contains(err.Error(), "cannot be dropped") {
			t.Errorf("the reason is not told: %v", err)
		}
	}
	if !s.works(cred.Value) || !slices.Contains(s.leases(), cred.Handle["lease_id"]) {
		t.Error("the lease is gone")
	}
	handles, err := is.(issuer.Lister).List(t.Context(), subject("acme", "orders-ro"))
	if err != nil || len(handles) != 1 {
		t.Errorf("listed are %v, %v", handles, err)
	}
	s.postgres.Exec(t, `DROP TABLE kept`)
	if err := is.Revoke(t.Context(), subject("acme", "orders-ro"), cred.Handle); err != nil || s.works(cred.Value) {
		t.Errorf("revoking: %v", err)
	}
}

func TestRefusedRoles(t *testing.T) {
	s := newSite(t, vaultserver.Shared(t))
	s.roles = append(s.roles, "certificates")
	is := s.open(s.config(s.appRole(vaultserver.AppRole{})))
	s.role("certificates", map[string]any{
		"credential_type": "rsa_private_key", "revocation_statements": revocation,
		"creation_statements": []string{`CREATE ROLE "{{name}}" LOGIN`},
	})
	s.role("broken", map[string]any{"creation_statements": []string{"CREATE NONSENSE"}})
	for role, class := range map[string]error{
		"no-such-role": backends.ErrInvalid,
		"certificates": backends.ErrInvalid,
		"broken":       backends.ErrUnavailable, // of a failure at the database nobody knows how far it went
		"../config/db": backends.ErrInvalid,
	} {
		_, err := is.Issue(t.Context(), issuer.Request{Subject: subject("acme", role), Tag: "rot-1"})
		wantClass(t, role, err, class)
	}
	if left := s.leases(); len(left) != 0 {
		t.Errorf("Vault holds %q", left)
	}
	cfg := s.config(s.appRole(vaultserver.AppRole{Policy: vaultserver.Everything}))
	for mount, class := range map[string]error{"secret": backends.ErrUnavailable, "nowhere": backends.ErrUnavailable} {
		cfg.Mount = mount
		_, err := s.open(cfg).Issue(t.Context(), issuer.Request{Subject: subject("acme", "orders-ro"), Tag: "rot-1"})
		wantClass(t, "mount "+mount, err, class)
	}
	s.vault.Write(t, s.mount+"/config/db", map[string]any{"allowed_roles": "other", "plugin_name": "postgresql-database-plugin"})
	_, err := is.Issue(t.Context(), issuer.Request{Subject: subject("acme", "orders-ro"), Tag: "rot-1"})
	wantClass(t, "a role that the connection does not allow", err, backends.ErrDenied)
}

// A mint is a GET, which net/http would send again on a connection that was kept.
func TestMintIsSentOnce(t *testing.T) {
	s := newSite(t, vaultserver.Shared(t))
	proxy := faultproxy.New(t, s.vault.Addr)
	cfg := s.config(s.appRole(vaultserver.AppRole{}))
	cfg.Conn.Address = proxy.URL
	is := s.open(cfg)
	for i := range 3 {
		s.mustIssue(is, fmt.Sprintf("rot-%d", i))
		before := len(s.leases())
		proxy.Set(faultproxy.Rule{Fault: faultproxy.LostAnswer(), Match: minting, Times: 1})
		_, err := is.Issue(t.Context(), issuer.Request{Subject: subject("acme", "orders-ro"), Tag: "rot-lost"})
		wantClass(t, "a lost answer", err, backends.ErrUnavailable)
		if got := len(s.leases()) - before; got != 1 || errors.Is(err, issuer.ErrNotSent) {
			t.Errorf("%d credentials were made: %v", got, err)
		}
	}
	if leases, users := len(s.leases()), len(s.users()); leases != users {
		t.Errorf("%d leases, but %d users", leases, users)
	}
}

// users are those that the database has of the site's leases.
func (s *site) users() []string {
	return s.postgres.Texts(s.t, `SELECT member::regrole::text FROM pg_auth_members WHERE roleid = $1::regrole AND member::regrole::text LIKE '%v-%'`, s.readers)
}

// nobody is the handle of a lease that Vault does not know.
func (s *site) nobody() issuer.Handle {
	return issuer.Handle{"lease_id": s.mount + "/creds/orders-ro/none"}
}

// Nothing but leases of the engine is ever named to Vault.
func TestForeignHandles(t *testing.T) {
	s := newSite(t, vaultserver.Shared(t))
	is := s.open(s.config(s.appRole(vaultserver.AppRole{})))
	for id, class := range map[string]error{
		"":                                  backends.ErrInvalid,
		"x":                                 backends.ErrInvalid,
		s.mount + "/creds/../../auth/x":     backends.ErrInvalid,
		s.mount + "/creds/orders-ro/x?sync": backends.ErrInvalid,
		s.mount + "/creds//x":               backends.ErrInvalid,
		"auth/approle/login/x":              backends.ErrDenied,
		s.mount + "/creds/orders-ro/x":      nil,
	} {
		wantClass(t, id, is.Revoke(t.Context(), subject("acme", "orders-ro"), issuer.Handle{"lease_id": id}), class)
	}
}

func TestCheckOfTokens(t *testing.T) {
	s := newSite(t, vaultserver.Shared(t))
	s.role("default-statements", map[string]any{"default_ttl": "0s"})
	problems := func(is issuer.Issuer, role string) string {
		var texts []string
		for _, f := range is.(issuer.Checker).Check(context.Background(), subject("acme", role)) {
			if f.Problem != "" {
				texts = append(texts, f.What+": "+f.Problem)
			}
		}
		return strings.Join(texts, "\n")
	}
	for name, tt := range map[string]struct {
		auth vaultconn.Auth
		role string
		want string // empty: all is well
	}{
		"batch":             {s.appRole(vaultserver.AppRole{}), "orders-ro", ""},
		"short batch":       {s.appRole(vaultserver.AppRole{TokenTTL: 10 * time.Minute}), "orders-ro", "they end after"},
		"service":           {s.appRole(vaultserver.AppRole{TokenType: "service"}), "orders-ro", "a credential ends with the service token"},
		"periodic":          {s.token("auth/token/create-orphan", map[string]any{"period": "24h"}), "orders-ro", "not renewed for 24h"},
		"child":             {s.token("auth/token/create", map[string]any{"ttl": "24h"}), "orders-ro", "ends with its parent"},
		"batch of a parent": {s.token("auth/token/create", map[string]any{"ttl": "24h", "type": "batch"}), "orders-ro", "has a parent"},
		"root":              {vaultconn.Auth{Method: "token", Token: backends.SecretString(s.vault.RootToken)}, "orders-ro", "whoever revokes it"},
		"no such role":      {s.appRole(vaultserver.AppRole{}), "no-such-role", "no such role"},
		"open sessions":     {s.appRole(vaultserver.AppRole{}), "default-statements", "leave sessions open"},
		"may not look":      {s.appRole(vaultserver.AppRole{Policy: s.policy("/roles/")}), "orders-ro", "the role is there"},
	} {
		got := problems(s.open(s.config(tt.auth)), tt.role)
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: found is %q, want %q", name, got, tt.want)
		}
	}
}

// Before any secret uses the issuer, its login is looked at all the same.
func TestCheckBeforeAnySecret(t *testing.T) {
	s := newSite(t, vaultserver.Shared(t))
	for name, auth := range map[string]vaultconn.Auth{
		"one that is taken": s.appRole(vaultserver.AppRole{}), "one that is refused": {Method: "token", Token: "hvs.nobodys"},
	} {
		found := s.open(s.config(auth)).(issuer.Checker).Check(t.Context(), issuer.Subject{})
		last := found[len(found)-1]
		if ok := name == "one that is taken"; found[0].What != "can log in to Vault" || (found[0].Problem == "") != ok || last.Unknown != ok || ok && !strings.Contains(last.Mend, "that names its role") {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

func TestConfigMistakes(t *testing.T) {
	good := vaultdb.Config{Conn: vaultconn.Config{Address: "https://vault.example.com:8200", Auth: []vaultconn.Auth{{Method: "token", Token: canary}}}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	negative := -time.Second
	for want, spoil := range map[string]func(*vaultdb.Config){
		"mount":             func(c *vaultdb.Config) { c.Mount = "a//b" },
		"list_leases":       func(c *vaultdb.Config) { c.Exclusive = true },
		"revocation_budget": func(c *vaultdb.Config) { c.RevocationBudget = &negative },
		"auth":              func(c *vaultdb.Config) { c.Conn.Auth = nil },
	} {
		c := good
		spoil(&c)
		err := c.Validate()
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", want, err)
		}
		if _, err := vaultdb.Open(t.Context(), c, nil); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%s: opened: %v", want, err)
		}
	}
}

func TestSettings(t *testing.T) {
	for settings, want := range map[string]string{
		`{"role":"orders-ro"}`:    "",
		`{"role":"a.b_c"}`:        "",
		``:                        "role is missing",
		`null`:                    "role is missing",
		`{}`:                      "role is missing",
		`{"role":"a/b"}`:          "no name of a role",
		`{"role":".."}`:           "no name of a role",
		`{"role":"x","ttl":"1h"}`: "nothing else",
		`{"role":["x"]}`:          "nothing else",
		`"x"`:                     "nothing else",
	} {
		got := strings.Join(vaultdb.Config{}.CheckSettings([]byte(settings)), "; ")
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", settings, got, want)
		}
	}
}

// TestPlace: one engine of one server, however the block is written.
func TestPlace(t *testing.T) {
	place := func(address, namespace, mount string) string {
		return vaultdb.Config{Mount: mount, Conn: vaultconn.Config{Address: address, Namespace: namespace}}.Place()
	}
	first := place("https://vault.example.com", "team/", "")
	for _, same := range []string{place("https://VAULT.example.com.:443/", "team", "database"), place("https://vault.example.com", "/team", "database/")} {
		if same != first || first == "" {
			t.Errorf("%q is told from %q", same, first)
		}
	}
	for _, other := range []string{place("https://vault.example.com:8200", "team", ""), place("https://vault.example.com", "", ""), place("https://vault.example.com", "team", "db")} {
		if other == first {
			t.Errorf("%q is taken for another one", other)
		}
	}
	if p := (vaultdb.Config{}).Place(); p != "" {
		t.Errorf("of nothing it is %q", p)
	}
}
