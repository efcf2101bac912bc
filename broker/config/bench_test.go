package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/config"
)

// many is a configuration of n secrets of many teams, in files of 250, with what such a
// one has besides.
func many(b *testing.B, n int) (dir string) {
	b.Helper()
	dir = b.TempDir()
	write := func(name string, text *strings.Builder) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text.String()), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	const teams, perFile = 50, 250
	var common strings.Builder
	common.WriteString(`
		backend "vault" "prod" { address = "https://vault.example.com" }
		backend "vault" "us" { address = "https://us.vault.example.com" }
		issuer "api_key" "internal" {}
		issuer "http" "mailer" {
		  revocation_budget = "30m"
		  max_live          = 5
		}
		rotation_policy "base" {
		  limits {
		    max_overlap = "72h"
		    max_age     = "100d"
		    min_length  = 16
		  }
		  max_age = "90d"
		}`)
	for t := range teams {
		fmt.Fprintf(&common, `
		probe "http" "team-%[1]d" {
		  url = "https://api.example.com/team-%[1]d"
		  accepted { status = [200] }
		}
		consumer "team-%[1]d" {
		  webhook {
		    url = "https://team-%[1]d.example.com/hook"
		  }
		}
		policy "team-%[1]d" {
		  path "team-%[1]d/*" { capabilities = ["read", "list"] }
		}
		rotation_policy "team-%[1]d" {
		  match {
		    paths  = ["team-%[1]d/*"]
		    labels = { team = "%[1]d" }
		  }
		  schedule       = "%[2]d 3 * * 1"
		  time_zone      = "Europe/Berlin"
		  jitter         = "30m"
		  window         = "Mon-Fri 02:00-05:00"
		  overlap        = "24h"
		  max_age        = "35d"
		  max_concurrent = 10
		}`, t, t)
	}
	write("common.hcl", &common)
	for from := 0; from < n; from += perFile {
		var secrets strings.Builder
		for i := from; i < min(from+perFile, n); i++ {
			team := i % teams
			fmt.Fprintf(&secrets, `
		secret "team-%[1]d/service-%[2]d/key" {
		  backend   = "prod"
		  mirrors   = ["us"]
		  probe     = "team-%[1]d"
		  consumers = ["team-%[1]d"]
		  labels    = { team = "%[1]d", environment = "production", service = "service-%[2]d" }
		  pair      = "pair-%[3]d"
		  issuer "mailer" {
		    scopes = ["send", "read-%[2]d"]
		    limits = { daily = %[2]d }
		  }
		  rotation {
		    overlap = "12h"
		    confirm {
		      window = "45m"
		    }
		  }
		}`, team, i, i/teams/2*teams+team)
		}
		write(fmt.Sprintf("secrets-%05d.hcl", from), &secrets)
	}
	return dir
}

// BenchmarkScheduleLoad reads 5,000 secrets as HCL, as `keybroker validate` does, and
// makes the definitions of all, as the daemon does at its start.
func BenchmarkScheduleLoad(b *testing.B) {
	const secrets = 5000
	dir := many(b, secrets)
	load := func(opts config.Options) *config.Config {
		cfg, diags := config.Load(dir, registry(), opts)
		if err := diags.Err(); err != nil || len(diags.All()) > 0 || len(cfg.Secrets) != secrets {
			b.Fatalf("%v, %d remarks", err, len(diags.All()))
		}
		return cfg
	}
	var offline, whole time.Duration
	rounds := 0
	for b.Loop() {
		start := time.Now()
		load(config.Options{Offline: true})
		offline += time.Since(start)

		start = time.Now()
		cfg := load(testOptions())
		for _, s := range cfg.Secrets {
			if _, err := cfg.Definition(s); err != nil {
				b.Fatal(err)
			}
		}
		whole += time.Since(start)
		rounds++
	}
	b.ReportMetric(whole.Seconds()/float64(rounds), "schedule.load_5000_hcl_seconds/s")
	b.ReportMetric(offline.Seconds()/float64(rounds), "schedule.validate_5000_hcl_seconds/s")
	b.ReportMetric(0, "ns/op") // the sum of both
}
