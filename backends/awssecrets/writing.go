package awssecrets

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/google/uuid"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
)

// AWS's stages; the third, AWSPREVIOUS, moves by itself.
const (
	pending = "AWSPENDING"
	current = "AWSCURRENT"
)

// A ClientRequestToken, which becomes the version's id, has so many characters.
const (
	minVersionID = 32
	maxVersionID = 64
)

// mending is after how long to ask again where somebody has to do something first.
const mending = time.Minute

var tokens = uuid.MustParse("0f5ab2a7-6c58-4d0c-9b0e-3f4c6f1f7a55") // ours alone

// versionID names the version that a write makes: the same for every attempt at it.
func versionID(w backends.Write) backends.VersionID {
	if w.Token == "" {
		return backends.VersionID(uuid.NewString())
	}
	return backends.VersionID(uuid.NewSHA1(tokens, []byte(w.Token)).String())
}

// version is one that is being written.
type version struct {
	backends.Write
	ref    backends.Ref
	id     backends.VersionID
	text   *string // or:
	binary []byte
}

func (d *Driver) version(ref backends.Ref, w backends.Write) (version, error) {
	v := version{Write: w, ref: ref, id: versionID(w)}
	stored, err := d.layout.Encode(w.Value)
	switch {
	case err != nil:
		return v, err
	case len(stored) > maxValueSize:
		return v, fmt.Errorf("%w: the value takes %d bytes, Secrets Manager's limit is %d", backends.ErrInvalid, len(stored), maxValueSize)
	case d.layout.Binary():
		v.binary = stored
	default:
		v.text = aws.String(string(stored))
	}
	return v, nil
}

// Publish implements backends.Driver. It stages the version and promotes it; a
// secret that is not there is created with it. A version that lost against another
// writer stays behind without a stage.
func (d *Driver) Publish(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	v, err := d.version(ref, w)
	if err != nil {
		return "", err
	}
	s, err := d.look(ctx, ref)
	switch {
	case errors.Is(err, backends.ErrNotFound):
		err = d.create(ctx, v)
	case err == nil:
		err = d.replace(ctx, s, v)
	}
	if err != nil {
		return "", err
	}
	return v.id, nil
}

// replace publishes a version of a secret that is there.
func (d *Driver) replace(ctx context.Context, s state, v version) error {
	if err := d.writable(s, v.ref); err != nil {
		return err
	}
	if s.current == v.id {
		return d.holds(ctx, v)
	}
	if s.current != v.Expect {
		return otherCurrent(s, v.Expect)
	}
	if err := d.put(ctx, v); err != nil {
		return err
	}
	if err := d.promote(ctx, v.ref, v.id, v.Expect); err != nil {
		if errors.Is(err, backends.ErrConflict) {
			_ = d.unstage(ctx, v.ref, v.id, pending) // else it would mean a rotation under way
		}
		return err
	}
	d.annotate(ctx, v)
	return nil
}

// Stage implements backends.Stager; ErrUnsupported for a secret that has no current
// version, see the package comment.
func (d *Driver) Stage(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	v, err := d.version(ref, w)
	if err != nil {
		return "", err
	}
	s, err := d.look(ctx, ref)
	if errors.Is(err, backends.ErrNotFound) || err == nil && s.current == "" && s.deletion == nil {
		return "", fmt.Errorf("%w: Secrets Manager makes a secret's first version current at once, so it is written when it is published", backends.ErrUnsupported)
	}
	if err == nil {
		err = d.writable(s, ref)
	}
	if err == nil {
		err = d.put(ctx, v)
	}
	if err != nil {
		return "", err
	}
	d.annotate(ctx, v)
	return v.id, nil
}

// Promote implements backends.Stager.
func (d *Driver) Promote(ctx context.Context, ref backends.Ref, id, expect backends.VersionID) error {
	s, err := d.look(ctx, ref)
	if err != nil {
		return err
	}
	if err := d.writable(s, ref); err != nil {
		return err
	}
	if s.current == id {
		return nil
	}
	if s.current != expect {
		return otherCurrent(s, expect)
	}
	if len(s.stages[id]) == 0 { // it may have lost AWSPENDING to another
		entries, err := d.versions(ctx, ref)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(entries, func(e types.SecretVersionsListEntry) bool { return aws.ToString(e.VersionId) == string(id) }) {
			return fmt.Errorf("%w: there is no version %q", backends.ErrNotFound, string(id))
		}
	}
	return d.promote(ctx, ref, id, expect)
}

// Retire implements backends.Driver: the version loses its stages, also those that
// others gave it, and AWS removes it some day. While the secret is scheduled for
// deletion AWS takes no stage off, and who restores it restores the stages too: so
// that is ErrUnavailable, until the secret is restored or gone.
func (d *Driver) Retire(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	s, err := d.look(ctx, ref)
	if errors.Is(err, backends.ErrNotFound) {
		return nil // with all its versions
	}
	if err != nil {
		return err
	}
	if s.current == id {
		return fmt.Errorf("%w: version %s is the current one", backends.ErrConflict, id)
	}
	switch {
	case len(s.stages[id]) == 0:
		return nil
	case s.deletion != nil:
		return backends.After(mending, fmt.Errorf("%w: the secret is scheduled for deletion on %s: until then whoever restores it restores version %s as %s",
			backends.ErrUnavailable, s.deletion.UTC().Format(time.DateOnly), id, strings.Join(s.stages[id], " and ")))
	case s.primary != "":
		return isReplica(s)
	}
	for _, stage := range s.stages[id] {
		if err := d.unstage(ctx, ref, id, stage); err != nil {
			return err
		}
	}
	return nil
}

// Destroy implements backends.Driver: AWS deletes whole secrets only.
func (d *Driver) Destroy(context.Context, backends.Ref, backends.VersionID) error {
	return fmt.Errorf("%w: Secrets Manager destroys no single version; one that is retired is removed by AWS some day", backends.ErrUnsupported)
}

func otherCurrent(s state, expect backends.VersionID) error {
	name := func(id backends.VersionID) string {
		if id == "" {
			return "none"
		}
		return string(id)
	}
	return fmt.Errorf("%w: the current version is %s, not %s", backends.ErrConflict, name(s.current), name(expect))
}

// writable tells why nothing can be written to a secret that is there.
func (d *Driver) writable(s state, ref backends.Ref) error {
	switch {
	case s.deletion != nil:
		return fmt.Errorf("%w: the secret is scheduled for deletion on %s; `aws secretsmanager restore-secret --region %s --secret-id %s` brings it back",
			backends.ErrConflict, s.deletion.UTC().Format(time.DateOnly), d.cfg.Conn.Region, *d.id(ref))
	case s.primary != "":
		return isReplica(s)
	case s.rotated:
		return fmt.Errorf("%w: AWS rotates the secret itself, and two cannot; `aws secretsmanager cancel-rotate-secret --region %s --secret-id %s` turns that off",
			backends.ErrConflict, d.cfg.Conn.Region, *d.id(ref))
	}
	return nil
}

func isReplica(s state) error {
	return fmt.Errorf("%w: it is a replica of the secret in region %s, which has to be written to", backends.ErrUnsupported, s.primary)
}

// ambiguous are names that end like an ARN of another name: AWS puts a hyphen and six
// characters after each, and may take one for the other (API reference of
// CreateSecret).
var ambiguous = regexp.MustCompile(`-[A-Za-z0-9]{6}$`)

// CheckName is ErrUnsupported for a name of which the driver makes no secret. One that
// is there already is used under any name.
func (c Config) CheckName(name string) error {
	if ambiguous.MatchString(name) {
		return fmt.Errorf("%w: "+notMade, backends.ErrUnsupported, name)
	}
	return nil
}

const notMade = "the name %q ends in a hyphen and six characters, which AWS may take for the end of an ARN: choose another"

// create makes a secret with its first version, which is current at once.
func (d *Driver) create(ctx context.Context, v version) error {
	switch {
	case v.Expect != "":
		return otherCurrent(state{}, v.Expect)
	case ambiguous.MatchString(v.ref.Name):
		return fmt.Errorf("%w: "+notMade, backends.ErrInvalid, v.ref.Name)
	}
	in := &secretsmanager.CreateSecretInput{
		Name: d.id(v.ref), ClientRequestToken: aws.String(string(v.id)),
		SecretString: v.text, SecretBinary: v.binary,
	}
	if d.cfg.KMSKeyID != "" {
		in.KmsKeyId = aws.String(d.cfg.KMSKeyID)
	}
	for key, value := range d.cfg.Tags {
		in.Tags = append(in.Tags, types.Tag{Key: aws.String(key), Value: aws.String(value)})
	}
	in.Tags = append(in.Tags, v.tags()...)
	for _, region := range d.cfg.Replicas {
		in.AddReplicaRegions = append(in.AddReplicaRegions, types.ReplicaRegionType{Region: aws.String(region)})
	}
	d.keepAhead(nil)
	_, err := d.client.CreateSecret(ctx, in)
	return awsconn.Fault(err, v.Value)
}

// put stages a version of a secret that has one already, unless it is there.
func (d *Driver) put(ctx context.Context, v version) error {
	entries, err := d.versions(ctx, v.ref)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(entries, func(e types.SecretVersionsListEntry) bool { return aws.ToString(e.VersionId) == string(v.id) }) {
		return d.holds(ctx, v)
	}
	if err := d.affordable(entries, v.Urgent); err != nil {
		return err
	}
	_, err = d.client.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
		SecretId: d.id(v.ref), ClientRequestToken: aws.String(string(v.id)),
		SecretString: v.text, SecretBinary: v.binary, VersionStages: []string{pending},
	})
	return awsconn.Fault(err, v.Value)
}

// affordable is ErrUnavailable if one more version would leave too few of those
// that AWS keeps; see Config.VersionsPerDay.
func (d *Driver) affordable(entries []types.SecretVersionsListEntry, urgent bool) error {
	const day = 24 * time.Hour
	var young []time.Duration // until each is a day old, the oldest first
	for _, e := range entries {
		if left := day - d.now().Sub(aws.ToTime(e.CreatedDate)); left > 0 {
			young = append(young, left)
		}
	}
	if urgent || len(young) < d.cfg.VersionsPerDay {
		return nil
	}
	wait := young[len(young)-d.cfg.VersionsPerDay]
	return backends.After(wait, fmt.Errorf("%w: %d versions were written within 24 hours, which is all that versions_per_day allows; the next one can be in %s",
		backends.ErrUnavailable, len(young), wait.Round(time.Minute)))
}

// holds is ErrConflict unless the version that v is to make is there with its value.
func (d *Driver) holds(ctx context.Context, v version) error {
	have, _, err := d.Read(ctx, v.ref, v.id)
	if err == nil && !have.Equal(v.Value) {
		err = fmt.Errorf("%w: this write was made before with another value, as version %s", backends.ErrConflict, v.id)
	}
	return err
}

// promote moves AWSCURRENT from one version to another, if it is there. What AWS
// answers otherwise does not tell why, nor does it where a repeated request finds
// its work done.
func (d *Driver) promote(ctx context.Context, ref backends.Ref, id, expect backends.VersionID) error {
	refusal := d.move(ctx, ref, current, expect, id)
	if refusal == nil || errors.Is(refusal, backends.ErrUnavailable) || errors.Is(refusal, backends.ErrDenied) {
		return refusal
	}
	s, err := d.look(ctx, ref)
	switch {
	case err != nil:
		return err
	case s.current == id:
		return nil
	case s.current != expect:
		return otherCurrent(s, expect)
	}
	return fmt.Errorf("%w: version %s cannot be made current: %v", backends.ErrConflict, id, refusal)
}

// unstage takes a stage off a version, if it has it.
func (d *Driver) unstage(ctx context.Context, ref backends.Ref, id backends.VersionID, stage string) error {
	refusal := d.move(ctx, ref, stage, id, "")
	if !errors.Is(refusal, backends.ErrInvalid) && !errors.Is(refusal, backends.ErrConflict) {
		return refusal
	}
	s, err := d.look(ctx, ref)
	switch {
	case err != nil:
		return err
	case s.current == id:
		return fmt.Errorf("%w: version %s has become the current one", backends.ErrConflict, id)
	case !slices.Contains(s.stages[id], stage):
		return nil
	}
	return refusal
}

// move moves a stage from one version, or from nowhere, to another, or off.
func (d *Driver) move(ctx context.Context, ref backends.Ref, stage string, from, to backends.VersionID) error {
	in := &secretsmanager.UpdateSecretVersionStageInput{SecretId: d.id(ref), VersionStage: aws.String(stage)}
	if from != "" {
		in.RemoveFromVersionId = aws.String(string(from))
	}
	if to != "" {
		in.MoveToVersionId = aws.String(string(to))
	}
	_, err := d.client.UpdateSecretVersionStage(ctx, in)
	return awsconn.Fault(err)
}
