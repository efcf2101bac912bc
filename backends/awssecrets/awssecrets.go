// Package awssecrets keeps secrets in AWS Secrets Manager.
//
// A secret is called <path_prefix><name>, whoever its tenant is, so that
// applications that read Secrets Manager directly find it where they always did.
// Tenants therefore share a backend of this kind only as long as no two of them have
// a secret of the same name, which the broker's store makes sure of; List gives the
// names of all.
//
// The stages are AWS's own. A pending version has AWSPENDING; publishing moves
// AWSCURRENT to it, from the one version that is named in the same request, which
// makes it a compare-and-swap; AWS then puts AWSPREVIOUS on the version before. Who
// promotes leaves AWSPENDING where it is, on the version that is now current, as
// AWS's own rotation does: elsewhere it would mean a rotation under way. A version's
// id is made from the token of its write, so that a write made twice is one version.
//
// AWS has no pending first version: the first one is current at once. So a secret
// that is not there yet cannot be staged (ErrUnsupported); it is created by Publish,
// in one request with its value, once that is known to work. The key, the tags and
// the replica regions of the configuration are given to secrets then, and those that
// are there already keep theirs.
//
// AWS keeps about 100 versions of a secret, removes none that is younger than a
// day, and refuses to write more. The driver stops short of that, leaving the rest
// to emergencies: see Config.VersionsPerDay.
//
// Two cannot rotate one secret: where AWS's own rotation is turned on, nothing is
// published or staged (ErrConflict) until it is turned off.
package awssecrets

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
)

const (
	// DefaultVersionsPerDay leaves a tenth of what AWS keeps to emergencies.
	DefaultVersionsPerDay = 90
	// MaxVersionsPerDay leaves them a few: each writes one, and one that is superseded
	// another.
	MaxVersionsPerDay = 95
)

// maxValueSize is of SecretString and of SecretBinary, in bytes (API reference of
// PutSecretValue).
const maxValueSize = 65536

// Config is the body of a `backend "aws_secrets_manager"` block.
type Config struct {
	PathPrefix string            `hcl:"path_prefix,optional"` // before every name, e.g. "keybroker/"
	Layout     string            `hcl:"layout,optional"`      // "json" (default), "string" or "binary"
	Field      string            `hcl:"field,optional"`       // of layouts string and binary: the one field; default "value"
	KMSKeyID   string            `hcl:"kms_key_id,optional"`  // id, ARN or alias; default: the account's aws/secretsmanager
	Tags       map[string]string `hcl:"tags,optional"`
	Replicas   []string          `hcl:"replicas,optional"` // regions
	// VersionsPerDay is how many versions of one secret are written within 24 hours
	// outside emergencies, MaxVersionsPerDay at most; more are ErrUnavailable until the
	// oldest is a day old. 0: DefaultVersionsPerDay.
	VersionsPerDay int            `hcl:"versions_per_day,optional"`
	Conn           awsconn.Config `hcl:",remain"`
}

// Capabilities says what a driver of this configuration can do.
func (c Config) Capabilities() backends.Capabilities {
	l, _ := c.layout()
	return backends.Capabilities{
		Versions: true, Stages: true, CompareSwap: true,
		Binary: l.Binary(), Field: l.Field(), MaxValueSize: maxValueSize,
	}
}

func (c Config) layout() (backends.Layout, error) {
	return backends.NewLayout(c.Layout, c.Field, backends.LayoutJSON, backends.LayoutString, backends.LayoutBinary)
}

// Place names the folder that c leads to: two configurations with the same place
// are about the same secrets. Empty where it cannot be told.
func (c Config) Place() string {
	place := c.Conn.Place()
	if place == "" {
		return ""
	}
	return place + " /" + strings.TrimSuffix(c.PathPrefix, "/")
}

var regionName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)+$`)

// NameOf is what the secret is called here that Secrets Manager calls id; empty where it is
// none of this folder.
func (c Config) NameOf(id string) string {
	if c.PathPrefix == "" {
		return id
	}
	name, ok := strings.CutPrefix(id, strings.TrimSuffix(c.PathPrefix, "/")+"/")
	if !ok {
		return ""
	}
	return name
}

// Validate reports every mistake in c, joined, each an ErrInvalid. It reads no
// file and asks no server.
func (c Config) Validate() error {
	var mistakes []error
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	if c.PathPrefix != "" && backends.ParseName(strings.TrimSuffix(c.PathPrefix, "/")) != nil {
		wrong("path_prefix %q is no path like keybroker/", c.PathPrefix)
	}
	if _, err := c.layout(); err != nil {
		mistakes = append(mistakes, err)
	}
	for key, value := range c.Tags {
		if key == "" || len(key) > 128 || len(value) > 256 || strings.HasPrefix(key, "aws:") || strings.HasPrefix(key, tagPrefix) {
			wrong("tags: %q is no tag: a key has up to 128 characters and begins with neither aws: nor %s, a value has up to 256", key, tagPrefix)
		}
	}
	for i, region := range c.Replicas {
		if !regionName.MatchString(region) || region == c.Conn.Region || slices.Contains(c.Replicas[:i], region) {
			wrong("replicas name %q, which is not another AWS region: write ones like eu-west-1, each once", region)
		}
	}
	if c.VersionsPerDay < 0 || c.VersionsPerDay > MaxVersionsPerDay {
		wrong("versions_per_day is %d, and AWS keeps 100, of which emergencies need some: write one up to %d, or leave it out for %d",
			c.VersionsPerDay, MaxVersionsPerDay, DefaultVersionsPerDay)
	}
	return errors.Join(append(mistakes, c.Conn.Validate())...)
}

// Driver is a backends.Driver and backends.Stager on Secrets Manager in one region.
type Driver struct {
	cfg    Config
	conn   aws.Config
	client *secretsmanager.Client
	logger hclog.Logger
	layout backends.Layout
	prefix string // empty or with a slash at its end
	now    func() time.Time

	untagged sync.Map // by backends.Ref: until when (time.Time) its tags are left out

	listing sync.Mutex
	ahead   *names // what List has read ahead
}

var (
	_ backends.Driver = (*Driver)(nil)
	_ backends.Stager = (*Driver)(nil)
)

// Open makes a driver. AWS need not be up: see awsconn.Load.
func Open(ctx context.Context, cfg Config, logger hclog.Logger) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	conn, err := awsconn.Load(ctx, cfg.Conn, logger)
	if err != nil {
		return nil, err
	}
	if cfg.VersionsPerDay == 0 {
		cfg.VersionsPerDay = DefaultVersionsPerDay
	}
	d := &Driver{cfg: cfg, conn: conn, client: secretsmanager.NewFromConfig(conn), logger: logger, now: time.Now}
	d.layout, _ = cfg.layout()
	if cfg.PathPrefix != "" {
		d.prefix = strings.TrimSuffix(cfg.PathPrefix, "/") + "/"
	}
	return d, nil
}

// Close closes idle connections. No call may be under way.
func (d *Driver) Close() { awsconn.CloseIdle(d.conn) }

// Capabilities implements backends.Driver.
func (d *Driver) Capabilities() backends.Capabilities { return d.cfg.Capabilities() }

// id is what AWS calls a secret.
func (d *Driver) id(ref backends.Ref) *string { return aws.String(d.prefix + ref.Name) }

// Read implements backends.Driver.
func (d *Driver) Read(ctx context.Context, ref backends.Ref, id backends.VersionID) (backends.Value, backends.VersionID, error) {
	in := &secretsmanager.GetSecretValueInput{SecretId: d.id(ref), VersionStage: aws.String(current)}
	if id != "" {
		if len(id) < minVersionID || len(id) > maxVersionID {
			return backends.Value{}, "", fmt.Errorf("%w: %q is no version of Secrets Manager", backends.ErrNotFound, string(id))
		}
		in.VersionId, in.VersionStage = aws.String(string(id)), nil
	}
	out, err := d.client.GetSecretValue(ctx, in)
	if err = awsconn.Fault(err); errors.Is(err, backends.ErrConflict) { // scheduled for deletion, or empty
		return backends.Value{}, "", fmt.Errorf("%w: it cannot be read in its present state: %v", backends.ErrNotFound, err)
	}
	if err != nil {
		return backends.Value{}, "", err
	}
	stored, blob := []byte(aws.ToString(out.SecretString)), out.SecretString == nil
	if blob {
		stored = out.SecretBinary
	}
	value, err := d.layout.Decode(stored, blob)
	if err != nil {
		return backends.Value{}, "", err
	}
	return value, backends.VersionID(aws.ToString(out.VersionId)), nil
}

// Describe implements backends.Driver. Versions that AWS has removed are forgotten.
// Those of a secret that is scheduled for deletion are gone.
func (d *Driver) Describe(ctx context.Context, ref backends.Ref) (backends.Description, error) {
	s, err := d.look(ctx, ref)
	if err != nil {
		return backends.Description{}, err
	}
	desc := backends.Description{Current: s.current, Note: s.note}
	if s.deletion != nil {
		desc.Current = ""
	}
	entries, err := d.versions(ctx, ref)
	if err != nil {
		return backends.Description{}, err
	}
	for _, v := range entries {
		id := backends.VersionID(aws.ToString(v.VersionId))
		desc.Versions = append(desc.Versions, backends.VersionMeta{
			ID: id, CreatedAt: aws.ToTime(v.CreatedDate), Gone: s.deletion != nil, Stages: s.stages[id],
		})
	}
	return desc, nil
}

// Check implements backends.Driver. The right that it needs beyond those to the
// secrets is secretsmanager:ListSecrets, as List does.
func (d *Driver) Check(ctx context.Context) error {
	in := d.listInput()
	in.MaxResults = aws.Int32(1)
	_, err := d.client.ListSecrets(ctx, in)
	return awsconn.Fault(err)
}

// state is what DescribeSecret tells.
type state struct {
	current  backends.VersionID
	stages   map[backends.VersionID][]string // sorted; versions without one may be left out
	deletion *time.Time                      // when it is to be deleted for good
	primary  string                          // the region that it is a replica of; empty: it is none
	rotated  bool                            // by AWS
	note     backends.Note
}

// look asks for what AWS knows of a secret, less the versions without a stage.
func (d *Driver) look(ctx context.Context, ref backends.Ref) (state, error) {
	out, err := d.client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: d.id(ref)})
	if err != nil {
		return state{}, awsconn.Fault(err)
	}
	s := state{stages: map[backends.VersionID][]string{}, note: noteOf(out.Tags), deletion: out.DeletedDate, rotated: aws.ToBool(out.RotationEnabled)}
	if primary := aws.ToString(out.PrimaryRegion); primary != d.cfg.Conn.Region {
		s.primary = primary
	}
	for version, stages := range out.VersionIdsToStages {
		id := backends.VersionID(version)
		s.stages[id] = slices.Sorted(slices.Values(stages))
		if slices.Contains(stages, current) {
			s.current = id
		}
	}
	return s, nil
}

// versions lists the versions of a secret, oldest first, with those that have no
// stage.
func (d *Driver) versions(ctx context.Context, ref backends.Ref) ([]types.SecretVersionsListEntry, error) {
	var all []types.SecretVersionsListEntry
	in := &secretsmanager.ListSecretVersionIdsInput{
		SecretId: d.id(ref), IncludeDeprecated: aws.Bool(true), MaxResults: aws.Int32(pageSize),
	}
	for {
		out, err := d.client.ListSecretVersionIds(ctx, in)
		if err != nil {
			return nil, awsconn.Fault(err)
		}
		all = append(all, out.Versions...)
		if aws.ToString(out.NextToken) == "" {
			break
		}
		in.NextToken = out.NextToken
	}
	slices.SortStableFunc(all, func(a, b types.SecretVersionsListEntry) int {
		return aws.ToTime(a.CreatedDate).Compare(aws.ToTime(b.CreatedDate))
	})
	return all, nil
}
