package broker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
)

// hit is a version that has some of the texts that were looked up.
type hit struct {
	secretID string
	version  int
	texts    []string // that stand in its fields
	whole    bool     // they are all of its fields
	// nameOnly: what stands there names the account or where it is, and opens nothing.
	nameOnly bool
}

// naming are the fields that hold nothing secret and are the same in version after
// version: a text in one of them does not make a leak.
var naming = []string{"user", "username", "user_name", "login", "email", "role", "account", "account_id", "client_id", "tenant", "tenant_id", "project", "project_id",
	"host", "hostname", "address", "port", "scheme", "url", "uri", "endpoint", "server", "region", "zone",
	"database", "dbname", "db", "db_name", "schema", "engine", "driver", "sslmode", "bucket", "topic", "queue", "issuer", "audience", "role_arn", "arn"}

// maxSharing is how many secrets of a tenant may have a text in one of several fields for
// it to be a credential of theirs: what more have is a name that they share.
const maxSharing = 100

// lookUp finds the versions of a tenant, or of all of them, that have one of the texts in a
// field, by secret and version; past ones, too.
func (b *Broker) lookUp(ctx context.Context, tx *store.Tx, tenant string, texts []string) (found []hit, err error) {
	if len(texts) == 0 {
		return nil, nil
	}
	tenants := []string{tenant}
	if tenant == "" {
		if tenants, err = tx.TenantsWithFields(ctx); err != nil {
			return nil, err
		}
	}
	for _, t := range tenants {
		some, err := b.lookUpIn(ctx, tx, t, texts)
		if err != nil {
			return nil, fmt.Errorf("looking up what a text is: %w", err)
		}
		found = append(found, some...)
	}
	return found, nil
}

func (b *Broker) lookUpIn(ctx context.Context, tx *store.Tx, tenant string, texts []string) ([]hit, error) {
	of, prints := map[string]string{}, make([]string, len(texts))
	for i, text := range texts {
		prints[i] = b.Engine.Fingerprint(tenant, text)
		of[prints[i]] = text
	}
	fields, err := tx.VersionsWithField(ctx, tenant, prints...)
	if err != nil || len(fields) == 0 {
		return nil, err
	}
	names := map[string]string{}
	for _, n := range naming {
		names[b.Engine.Fingerprint(tenant, "field "+n)] = n
	}
	slices.SortFunc(fields, func(x, y store.FieldOf) int {
		return cmp.Or(cmp.Compare(x.SecretID, y.SecretID), cmp.Compare(x.Version, y.Version), cmp.Compare(x.Field, y.Field))
	})
	shared := sharing(fields)
	var found []hit
	for len(fields) > 0 {
		n, first := 1, fields[0]
		for n < len(fields) && fields[n].SecretID == first.SecretID && fields[n].Version == first.Version {
			n++
		}
		h := hit{secretID: first.SecretID, version: first.Version, whole: n == first.Fields, nameOnly: n != first.Fields}
		for _, f := range fields[:n] {
			h.texts = append(h.texts, of[f.Fingerprint])
			h.nameOnly = h.nameOnly && (names[f.Field] != "" && !opens(of[f.Fingerprint]) || shared[f.Fingerprint] > maxSharing)
		}
		found, fields = append(found, h), fields[n:]
	}
	return found, nil
}

// longSegment is how long a part of a URL is, in bytes, that is taken for a credential: a
// webhook's token rather than a name.
const longSegment = 16

// opens tells whether a text that says where something is holds a credential as well: a
// URL with a password, parameters, or a token in its path.
func opens(text string) bool {
	_, rest, ok := strings.Cut(text, "://")
	if !ok {
		return false
	}
	rest, query, _ := strings.Cut(rest, "?")
	host, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndex(host, "@"); at >= 0 && strings.Contains(host[:at], ":") || strings.Contains(query, "=") {
		return true
	}
	for part := range strings.SplitSeq(path, "/") {
		if len(part) >= longSegment && strings.ContainsAny(part, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
			return true
		}
	}
	return false
}

// sharing counts the secrets that have each text, which are in order.
func sharing(fields []store.FieldOf) map[string]int {
	count, last := map[string]int{}, map[string]string{}
	for _, f := range fields {
		if last[f.Fingerprint] != f.SecretID {
			last[f.Fingerprint] = f.SecretID
			count[f.Fingerprint]++
		}
	}
	return count
}

// leakedIn returns the versions, by the ids of their secrets, that a text gives away which
// leaked: of a tenant, or of all of them. The name of a user or a host in it gives nothing
// away.
func (b *Broker) leakedIn(ctx context.Context, tx *store.Tx, tenant, text string) (map[string][]int, error) {
	found, err := b.lookUp(ctx, tx, tenant, candidates(text))
	if err != nil {
		return nil, err
	}
	versions := map[string][]int{}
	for _, h := range found {
		if !h.nameOnly {
			versions[h.secretID] = append(versions[h.secretID], h.version)
		}
	}
	return versions, nil
}

// leaked is leakedIn for what p looks for.
func (b *Broker) leaked(ctx context.Context, tx *store.Tx, p authn.Principal, value client.SecretText) (map[string][]int, error) {
	return b.leakedIn(ctx, tx, p.Tenant, value.Reveal())
}
