package awsparams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
)

const (
	// folderPage is the largest that AWS gives (API reference of GetParametersByPath).
	folderPage = 10
	// passLife is how long what a pass has found serves whoever asks next.
	passLife = time.Minute
)

// pass is one over the folder, as far as it has come. It finds at most as many names
// as AWS keeps parameters in a region, 100,000.
type pass struct {
	names []string // once it is over in byte order, and read-only
	token *string  // of AWS's page to go on with; nil: the first one
	over  bool
	at    time.Time // of its last page
	made  int       // Driver.made at its beginning
}

// List implements backends.Driver: the names of all tenants. What is in the folder
// under a name that keybroker would refuse is left out.
//
// AWS lists in no order that it promises, ten parameters a request, so that the first
// page costs a pass over the whole folder. The pages after it are taken from what
// that has found, for a minute; and a pass that was broken off goes on where it was
// with the next call, if that comes within a minute.
func (d *Driver) List(ctx context.Context, _, after string, limit int) ([]string, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("%w: the limit must be positive", backends.ErrInvalid)
	}
	p := d.takePass(after)
	if !p.over {
		err := d.goOn(ctx, p)
		if err == nil || backends.Retryable(err) {
			d.keepPass(p)
		}
		if err != nil {
			return nil, "", err
		}
	}
	from, found := slices.BinarySearch(p.names, after)
	if found {
		from++
	}
	if rest := p.names[from:]; len(rest) <= limit {
		return slices.Clone(rest), "", nil
	}
	page := slices.Clone(p.names[from : from+limit])
	return page, page[limit-1], nil
}

// takePass returns the pass that a page after this name is taken from. One that is not
// over is the caller's alone. The first page is never of one that is over.
func (d *Driver) takePass(after string) *pass {
	d.listing.Lock()
	defer d.listing.Unlock()
	p := d.pass
	switch {
	case p == nil || d.now().Sub(p.at) > passLife || p.over && after == "":
		return &pass{made: d.made}
	case !p.over:
		d.pass = nil
	}
	return p
}

// keepPass keeps a pass for the next call, unless a name was made since it began.
func (d *Driver) keepPass(p *pass) {
	d.listing.Lock()
	defer d.listing.Unlock()
	if p.made == d.made {
		d.pass = p
	}
}

// forgetPass is for whoever makes a new name.
func (d *Driver) forgetPass() {
	d.listing.Lock()
	defer d.listing.Unlock()
	d.pass = nil
	d.made++
}

// goOn reads the folder from where the pass is to its end, or to the first error.
func (d *Driver) goOn(ctx context.Context, p *pass) error {
	for !p.over {
		in := d.folder()
		in.NextToken = p.token
		out, err := d.client.GetParametersByPath(ctx, in)
		var gone *types.InvalidNextToken
		if errors.As(err, &gone) {
			p.names, p.token = nil, nil // it begins again
		}
		if err != nil {
			return awsconn.Fault(err)
		}
		for _, found := range out.Parameters {
			// At the root, AWS may leave out the first slash.
			name, ok := strings.CutPrefix("/"+strings.TrimPrefix(aws.ToString(found.Name), "/"), d.prefix)
			if ok && backends.ParseName(name) == nil {
				p.names = append(p.names, name)
			}
		}
		p.token, p.at, p.over = out.NextToken, d.now(), aws.ToString(out.NextToken) == ""
	}
	slices.Sort(p.names)
	p.names = slices.Compact(p.names) // one that moved between pages
	return nil
}

// folder asks for everything below the prefix, with the values encrypted.
func (d *Driver) folder() *ssm.GetParametersByPathInput {
	path := d.prefix
	if path != "/" {
		path = strings.TrimSuffix(path, "/")
	}
	return &ssm.GetParametersByPathInput{
		Path: &path, Recursive: aws.Bool(true), WithDecryption: aws.Bool(false), MaxResults: aws.Int32(folderPage),
	}
}
