package daemon_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// responders has secrets that differ in whatever a selector can be about.
const responders = `
listener "tcp" {
  address = "ADDR"
}
emergency {
  approval_above = LIMIT
}
tenant "acme" {}
tenant "globex" {}
backend "local" "east" {}
backend "local" "west" {
  environments = ["staging"]
}
issuer "api_key" "internal" {}
issuer "api_key" "other" {}
probe "http" "internal" {
  method                = "POST"
  url                   = "http://ADDR/api/v1/keys/check"
  headers               = { Authorization = "Bearer ${field.key}" }
  allow_private_network = true
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}
rotation_policy "quick" {
  match {
    paths = ["*"]
  }
  overlap = "1s"
  verify {
    successes = 1
    interval  = "50ms"
  }
  confirm {
    rejections = 2
    window     = "100ms"
  }
  limits {
    plain_payload = true
  }
}
secret "pay/card" {
  tenant    = "acme"
  backend   = "east"
  probe     = "internal"
  consumers = ["shop"]
  labels    = { team = "pay", tier = "1" }
  issuer "internal" {}
}
secret "pay/bank" {
  tenant  = "acme"
  backend = "east"
  probe   = "internal"
  labels  = { team = "pay", tier = "2" }
  issuer "other" {}
}
secret "mail/smtp" {
  tenant  = "acme"
  backend = "west"
  probe   = "internal"
  labels  = { team = "mail", environment = "staging" }
  issuer "internal" {}
}
secret "pay/card" {
  tenant  = "globex"
  backend = "east"
  probe   = "internal"
  labels  = { team = "pay", tier = "1" }
  issuer "internal" {}
}
secret "pay/unborn" {
  tenant  = "acme"
  backend = "east"
  probe   = "internal"
  issuer "internal" {}
}
consumer "shop" {
  tenant = "acme"
  role   = "shop"
  webhook {
    url                   = "CONSUMER"
    payload               = "plain"
    allow_private_network = true
    signing_secret        = env("SIGNING_SECRET")
  }
}
policy "shop" {
  path "pay/*" {
    capabilities = ["read"]
  }
}
role "shop" {
  tenant   = "acme"
  policies = ["shop"]
}
policy "responder" {
  path "*" {
    capabilities = ["list", "emergency"]
  }
  path "sys/incidents/*" {
    capabilities = ["read", "approve", "update"]
  }
  path "sys/incidents" {
    capabilities = ["list"]
  }
}
policy "overriding" {
  path "sys/incidents/override" {
    capabilities = ["emergency"]
  }
}
policy "cards" {
  path "pay/card" {
    capabilities = ["list", "emergency"]
  }
  path "pay/bank" {
    capabilities = ["list"]
  }
}
policy "banks" { # together with cards
  path "pay/bank" {
    capabilities = ["emergency"]
  }
}
policy "everything" {
  path "*" {
    capabilities = ["list", "read", "emergency"]
  }
  path "sys/*" {
    capabilities = ["list", "read", "approve", "update", "emergency"]
  }
}
role "staging" {
  environment = "staging"
  policies    = ["everything"]
}
`

// brigade is a node with those secrets, each of which has a version that works.
type brigade struct {
	*site
	n        *node
	consumer *consumer
}

func newBrigade(t *testing.T, limit int) *brigade {
	t.Helper()
	secret := newSigningSecret()
	c := newConsumer(t, secret)
	s := newSite(t, strings.NewReplacer("LIMIT", fmt.Sprint(limit), "CONSUMER", c.url).Replace(responders))
	s.env["SIGNING_SECRET"] = secret.Reveal()
	s.adjust = func(o *daemon.Options) { o.LookForAlerts(100 * time.Millisecond) }
	b := &brigade{site: s, n: s.start(), consumer: c}
	b.n.done(t, "acme:pay/card", "acme:pay/bank", "acme:mail/smtp", "globex:pay/card")
	b.n.told(t)
	return b
}

// holding is a client that holds a new token.
func (b *brigade) holding(r client.CreateTokenRequest) *client.Client {
	c, _ := b.as(b.n, r)
	return c
}

// who is a client with policies and no walls.
func (b *brigade) who(policies ...string) *client.Client {
	return b.holding(client.CreateTokenRequest{Policies: policies})
}

// state is all that an emergency may change.
func (b *brigade) state(t *testing.T) string {
	t.Helper()
	ctx := t.Context()
	return fmt.Sprintf("%+v %+v %+v %+v", must(b.n.Rotations(ctx, client.RotationQuery{}))(t), must(b.n.Retirements(ctx, client.RetirementQuery{}))(t),
		must(b.n.Incidents(ctx, client.IncidentQuery{}))(t), must(b.n.Deliveries(ctx, client.DeliveryQuery{}))(t))
}

func targetsOf(i client.Incident) string {
	var names []string
	for _, t := range i.Targets {
		name := t.Tenant + ":" + t.Secret
		if len(t.Pinned) > 0 {
			name += fmt.Sprint(t.Pinned)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
