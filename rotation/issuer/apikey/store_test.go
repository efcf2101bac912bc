package apikey_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/apikey"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest"
	"github.com/keybroker/keybroker/rotation/keys"
)

// The records as they are kept, by both databases. Every test has tenants of its own.
func TestConformanceOfTheStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keybroker.db")
	server := postgresserver.Start(t)
	for name, tt := range map[string]struct {
		cfg         store.Config
		driver, url string
	}{
		"sqlite":     {store.Config{SQLitePath: path}, "sqlite", "file:" + path + "?mode=ro&_pragma=busy_timeout(20000)"},
		"postgresql": {store.Config{PostgresURL: backends.SecretString(server.URL)}, "pgx", server.URL},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := store.Open(t.Context(), tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				defer cancel()
				if err := db.Close(ctx); err != nil {
					t.Error(err)
				}
			})
			beside, err := sql.Open(tt.driver, tt.url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = beside.Close() })
			tests := 0
			issuertest.Run(t, func(t *testing.T) issuertest.Harness {
				tests++
				return storeHarness(t, db, beside, fmt.Sprintf("acme%d-", tests))
			})
		})
	}
}

func storeHarness(t *testing.T, db *store.DB, beside *sql.DB, tenants string) issuertest.Harness {
	h := hasher(t, newPepper)
	is := apikey.New(db.APIKeys(), h, time.Now)
	checker := keys.NewChecker(db.APIKeys(), h)
	of := func(tenant string) issuer.Subject {
		return issuer.Subject{Ref: backends.Ref{Tenant: tenants + tenant, Name: "demo/api-key"}}
	}
	return issuertest.Harness{
		Issuer: is, Subject: of("a"), Others: []issuer.Subject{of("b"), of("c")},
		Live: func() []string { return liveTags(t, beside, tenants) },
		Works: func(v backends.Value) bool {
			_, err := checker.Check(t.Context(), v.Reveal()["key"])
			return err == nil
		},
		Cut: func(n int) (issuer.Issuer, func() bool) {
			c := &cut{Keys: db.APIKeys(), left: n}
			return apikey.New(c, h, time.Now), c.reached
		},
		Refused: func(req issuer.Request) issuer.Request {
			req.Key.Prefix = "ghp"
			return req
		},
		Secrets: []string{string(newPepper.Key)},
	}
}

func liveTags(t *testing.T, beside *sql.DB, tenants string) (tags []string) {
	t.Helper()
	rows, err := beside.QueryContext(t.Context(), "SELECT tag FROM api_keys WHERE revoked_at IS NULL AND substr(tenant, 1, $1) = $2", len(tenants), tenants)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var tag string
		if err := rows.Scan(&tag); err != nil {
			t.Fatal(err)
		}
		tags = append(tags, tag)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return tags
}
