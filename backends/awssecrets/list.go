package awssecrets

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
)

const (
	// pageSize is the largest that AWS gives (API references of ListSecrets and
	// ListSecretVersionIds).
	pageSize = 100
	// readAhead is how many names one pass over AWS's unordered pages keeps for the
	// pages of ours that follow, and aheadLife for how long.
	readAhead = 10_000
	aheadLife = time.Minute
)

// names are those after one name, in byte order.
type names struct {
	after string
	list  []string
	all   bool // none comes after the last of the list
	at    time.Time
}

// List implements backends.Driver: the names of all tenants. What is below the
// prefix under a name that keybroker would refuse is left out, and so is what is
// scheduled for deletion. AWS's own list may lag by five minutes.
//
// AWS lists in no order that can be entered at a name, so that a page costs a pass
// over all secrets. The names of the pages after it are kept for a minute: a list
// that is read to its end costs one pass for every 10,000 names.
func (d *Driver) List(ctx context.Context, _, after string, limit int) ([]string, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("%w: the limit must be positive", backends.ErrInvalid)
	}
	from := d.takeAhead(after, limit)
	if from == nil {
		var err error
		if from, err = d.scan(ctx, after, max(limit+1, readAhead)); err != nil {
			return nil, "", err
		}
	}
	if from.all && len(from.list) <= limit {
		return from.list, "", nil
	}
	page := from.list[:limit:limit]
	from.after, from.list = page[limit-1], from.list[limit:]
	d.keepAhead(from)
	return page, from.after, nil
}

// takeAhead returns what was read ahead if it is what a page after this name needs.
func (d *Driver) takeAhead(after string, limit int) *names {
	d.listing.Lock()
	defer d.listing.Unlock()
	n := d.ahead
	if n == nil || after == "" || n.after != after || d.now().Sub(n.at) > aheadLife || !n.all && len(n.list) <= limit {
		return nil
	}
	d.ahead = nil
	return n
}

// keepAhead keeps n, or nothing: what was read ahead lacks a secret that is made now.
func (d *Driver) keepAhead(n *names) {
	d.listing.Lock()
	defer d.listing.Unlock()
	d.ahead = n
}

// scan reads all pages and keeps the first names after one, at most so many.
func (d *Driver) scan(ctx context.Context, after string, most int) (*names, error) {
	found := names{after: after, all: true}
	trim := func() {
		slices.Sort(found.list)
		found.list = slices.Compact(found.list) // a secret that moved between pages
		if len(found.list) > most {
			found.list, found.all = found.list[:most], false
		}
	}
	pages := secretsmanager.NewListSecretsPaginator(d.client, d.listInput())
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, awsconn.Fault(err)
		}
		for _, secret := range page.SecretList {
			name, ok := strings.CutPrefix(aws.ToString(secret.Name), d.prefix)
			if ok && name > after && backends.ParseName(name) == nil {
				found.list = append(found.list, name)
			}
		}
		if len(found.list) > 2*most {
			trim()
		}
	}
	trim()
	found.at = d.now()
	return &found, nil
}

func (d *Driver) listInput() *secretsmanager.ListSecretsInput {
	in := &secretsmanager.ListSecretsInput{MaxResults: aws.Int32(pageSize)}
	if d.prefix != "" {
		in.Filters = []types.Filter{{Key: types.FilterNameStringTypeName, Values: []string{d.prefix}}}
	}
	return in
}
