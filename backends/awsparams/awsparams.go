// Package awsparams keeps secrets in AWS Systems Manager Parameter Store.
//
// A secret is the SecureString parameter /<path_prefix>/<name>, whoever its tenant
// is, so that applications that read Parameter Store directly find it where they
// always did. Tenants therefore share a backend of this kind only as long as no two
// of them have a secret of the same name; List gives the names of all. A version's id
// is the number that AWS gives it. AWS keeps the last 100, and deletes none of them
// singly.
//
// There are no stages: a version is current as soon as it is written. What a version
// may have are labels, which lead whoever reads <name>:<label> to it. The driver
// gives none; it tells those of others as stages, and retiring a version takes them
// off, so that none leads to a dead key, and none keeps AWS from dropping the version
// some day.
//
// AWS creates a parameter only if there is none of its name, which guards the first
// version. For later ones it has no guard. The driver looks at the newest version
// right before it writes, and sees by the number of the version that it gets whether
// somebody else wrote in between. It then succeeds and logs a warning: the write
// cannot be undone, and to call it a failure while applications read the new
// credential already might have that credential revoked. What was overwritten can
// still be read by its number. For the same reason a write is never sent again
// without a look, as the SDK would: it would make a second version.
//
// What else a parameter has (key, tier, allowed pattern, description, policies) stays
// as it is, but for a key or a higher tier that the configuration names, and for the
// note at the end of its description. Tags are given to new parameters only.
package awsparams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
)

const (
	// The largest values of the tiers, in bytes (API reference of PutParameter).
	standardSize = 4096
	advancedSize = 8192

	// maxLevels is how many segments a name has at most (API reference of
	// PutParameter). Its other limit, 1011 bytes, is beyond a prefix and a name of the
	// greatest length together.
	maxLevels = 15

	// historyPage is the largest that AWS gives (API reference of GetParameterHistory).
	historyPage = 50
)

// Config is the body of a `backend "aws_parameter_store"` block.
type Config struct {
	PathPrefix string            `hcl:"path_prefix,optional"` // the folder of all names, e.g. "keybroker/"
	Layout     string            `hcl:"layout,optional"`      // "json" (default) or "string"
	Field      string            `hcl:"field,optional"`       // of layout string: the one field; default "value"
	KMSKeyID   string            `hcl:"kms_key_id,optional"`  // id, ARN or alias; default: the parameter's own, or alias/aws/ssm
	Tier       string            `hcl:"tier,optional"`        // "Standard", "Advanced" or "Intelligent-Tiering"; default: as the account says
	Tags       map[string]string `hcl:"tags,optional"`
	Conn       awsconn.Config    `hcl:",remain"`
}

// Capabilities says what a driver of this configuration can do.
func (c Config) Capabilities() backends.Capabilities {
	l, _ := c.layout()
	return backends.Capabilities{Versions: true, Field: l.Field(), MaxValueSize: c.maxValueSize()}
}

// layout is without {{…}}, which AWS takes for a reference to another parameter.
func (c Config) layout() (backends.Layout, error) {
	l, err := backends.NewLayout(c.Layout, c.Field, backends.LayoutJSON, backends.LayoutString)
	return l.WithoutBraces(), err
}

// maxValueSize is what is certain to fit.
func (c Config) maxValueSize() int {
	switch types.ParameterTier(c.Tier) {
	case types.ParameterTierAdvanced, types.ParameterTierIntelligentTiering:
		return advancedSize
	}
	return standardSize
}

// Place names the folder that c leads to: two configurations with the same place are
// about the same secrets. Empty where it cannot be told.
func (c Config) Place() string {
	where := c.Conn.Place()
	if where == "" {
		return ""
	}
	return where + " " + c.prefix()
}

// prefix begins and ends with a slash.
func (c Config) prefix() string {
	if folder := strings.Trim(c.PathPrefix, "/"); folder != "" {
		return "/" + folder + "/"
	}
	return "/"
}

// Validate reports every mistake in c, joined, each an ErrInvalid. It reads no file
// and asks no server.
func (c Config) Validate() error {
	var mistakes []error
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	if prefix := c.prefix(); prefix != "/" && (backends.ParseName(strings.Trim(c.PathPrefix, "/")) != nil || named(prefix+"x") != nil) {
		wrong("path_prefix %q is no folder of Parameter Store: write one like keybroker/, of letters, digits and _ . -, "+
			"with at most %d segments, that begins with neither aws nor ssm", c.PathPrefix, maxLevels-1)
	}
	if _, err := c.layout(); err != nil {
		mistakes = append(mistakes, err)
	}
	if tiers := types.ParameterTier("").Values(); c.Tier != "" && !slices.Contains(tiers, types.ParameterTier(c.Tier)) {
		wrong("tier %q is none: use one of %v", c.Tier, tiers)
	}
	for key, value := range c.Tags {
		if key == "" || len(key) > 128 || len(value) > 256 || strings.HasPrefix(key, "aws:") {
			wrong("tags: %q is no tag: a key has up to 128 characters and does not begin with aws:, a value has up to 256", key)
		}
	}
	return errors.Join(append(mistakes, c.Conn.Validate())...)
}

// Driver is a backends.Driver on the Parameter Store of one region.
type Driver struct {
	cfg    Config
	conn   aws.Config
	client *ssm.Client
	logger hclog.Logger
	layout backends.Layout
	prefix string // begins and ends with a slash
	now    func() time.Time

	listing sync.Mutex
	pass    *pass // the last one over the folder; nil: none, or a caller has it
	made    int   // names were made so many times
}

var _ backends.Driver = (*Driver)(nil)

// Open makes a driver. AWS need not be up: see awsconn.Load.
func Open(ctx context.Context, cfg Config, logger hclog.Logger) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	conn, err := awsconn.Load(ctx, cfg.Conn, logger)
	if err != nil {
		return nil, err
	}
	d := &Driver{cfg: cfg, conn: conn, client: ssm.NewFromConfig(conn), logger: logger, prefix: cfg.prefix(), now: time.Now}
	d.layout, _ = cfg.layout()
	return d, nil
}

// Close closes idle connections. No call may be under way.
func (d *Driver) Close() { awsconn.CloseIdle(d.conn) }

// Capabilities implements backends.Driver.
func (d *Driver) Capabilities() backends.Capabilities { return d.cfg.Capabilities() }

var (
	letters  = regexp.MustCompile(`^[a-zA-Z0-9_./-]+$`)
	reserved = regexp.MustCompile(`(?i)^/(aws|ssm)`)
)

// named is ErrInvalid where AWS has no place for a parameter of that name (API
// reference of PutParameter).
func named(parameter string) error {
	switch {
	case !letters.MatchString(parameter):
		return fmt.Errorf("%w: the parameter name %q is not made of letters, digits and _ . - /, which is all that Parameter Store takes", backends.ErrInvalid, parameter)
	case strings.Count(parameter, "/") > maxLevels:
		return fmt.Errorf("%w: the parameter name %q has more than the %d segments that Parameter Store takes", backends.ErrInvalid, parameter, maxLevels)
	case reserved.MatchString(parameter):
		return fmt.Errorf("%w: the parameter name %q begins with aws or ssm, which AWS keeps for itself", backends.ErrInvalid, parameter)
	}
	return nil
}

// CheckName is ErrInvalid where AWS has no place for a secret of that name.
func (c Config) CheckName(name string) error { return named(c.prefix() + name) }

// parameter is what AWS calls a secret; ErrInvalid where it has no place for it.
func (d *Driver) parameter(ref backends.Ref) (string, error) {
	name := d.prefix + ref.Name
	return name, named(name)
}

func idOf(version int64) backends.VersionID {
	return backends.VersionID(strconv.FormatInt(version, 10))
}

// number is how AWS writes the number of a version. What else might follow a colon
// is a label, which is no version's id.
var number = regexp.MustCompile(`^[1-9][0-9]{0,17}$`)

// Read implements backends.Driver. What others keep unencrypted is read as well.
func (d *Driver) Read(ctx context.Context, ref backends.Ref, id backends.VersionID) (backends.Value, backends.VersionID, error) {
	name, err := d.parameter(ref)
	if err != nil {
		return backends.Value{}, "", err
	}
	if id != "" {
		if !number.MatchString(string(id)) {
			return backends.Value{}, "", fmt.Errorf("%w: %q is no version of Parameter Store", backends.ErrNotFound, string(id))
		}
		name += ":" + string(id)
	}
	out, err := d.client.GetParameter(ctx, &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
	if err != nil {
		return backends.Value{}, "", awsconn.Fault(err)
	}
	if out.Parameter == nil || out.Parameter.Value == nil {
		return backends.Value{}, "", fmt.Errorf("%w: AWS answered without a value", backends.ErrUnavailable)
	}
	value, err := d.layout.Decode([]byte(*out.Parameter.Value), false)
	if err != nil {
		return backends.Value{}, "", err
	}
	return value, idOf(out.Parameter.Version), nil
}

// Describe implements backends.Driver. Versions that AWS has dropped are forgotten.
func (d *Driver) Describe(ctx context.Context, ref backends.Ref) (backends.Description, error) {
	name, err := d.parameter(ref)
	if err != nil {
		return backends.Description{}, err
	}
	versions, err := d.history(ctx, name)
	if err != nil {
		return backends.Description{}, err
	}
	newest := versions[len(versions)-1]
	_, note := splitNote(aws.ToString(newest.Description))
	desc := backends.Description{Current: idOf(newest.Version), Note: note}
	for _, v := range versions {
		desc.Versions = append(desc.Versions, backends.VersionMeta{
			ID: idOf(v.Version), CreatedAt: aws.ToTime(v.LastModifiedDate), Stages: slices.Sorted(slices.Values(v.Labels)),
		})
	}
	return desc, nil
}

// history lists the versions of a parameter, oldest first and at least one, with
// their values encrypted: it takes no right to the key.
func (d *Driver) history(ctx context.Context, name string) ([]types.ParameterHistory, error) {
	var all []types.ParameterHistory
	pages := ssm.NewGetParameterHistoryPaginator(d.client, &ssm.GetParameterHistoryInput{
		Name: &name, WithDecryption: aws.Bool(false), MaxResults: aws.Int32(historyPage),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, awsconn.Fault(err)
		}
		all = append(all, page.Parameters...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: there is no version", backends.ErrNotFound)
	}
	slices.SortFunc(all, func(a, b types.ParameterHistory) int { return cmp.Compare(a.Version, b.Version) })
	return all, nil
}

// Check implements backends.Driver. The right that it needs beyond those to the
// parameters is ssm:GetParametersByPath, as List does.
func (d *Driver) Check(ctx context.Context) error {
	in := d.folder()
	in.MaxResults = aws.Int32(1)
	_, err := d.client.GetParametersByPath(ctx, in)
	return awsconn.Fault(err)
}
