package awsparams

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
)

// Publish implements backends.Driver; how far it is guarded, the package comment
// says. ErrUnsupported for a parameter that is no SecureString: AWS cannot make it
// one, and would keep the value in clear.
func (d *Driver) Publish(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	name, err := d.parameter(ref)
	if err != nil {
		return "", err
	}
	in := &ssm.PutParameterInput{Name: &name, Type: types.ParameterTypeSecureString, Tier: types.ParameterTier(d.cfg.Tier)}
	if d.cfg.KMSKeyID != "" {
		in.KeyId = &d.cfg.KMSKeyID
	}
	if in.Value, err = d.encode(w.Value); err != nil {
		return "", err
	}
	versions, err := d.history(ctx, name)
	switch {
	case errors.Is(err, backends.ErrNotFound):
		return d.create(ctx, in, w)
	case err != nil:
		return "", err
	}
	return d.replace(ctx, in, versions, ref, w)
}

// encode is the layout's, within what the tier takes.
func (d *Driver) encode(v backends.Value) (*string, error) {
	stored, err := d.layout.Encode(v)
	if err != nil {
		return nil, err
	}
	if limit := d.cfg.maxValueSize(); len(stored) > limit {
		return nil, fmt.Errorf("%w: the value takes %d bytes, the limit in this tier of Parameter Store is %d", backends.ErrInvalid, len(stored), limit)
	}
	return aws.String(string(stored)), nil
}

// create writes the first version, unless somebody else does (ErrConflict).
func (d *Driver) create(ctx context.Context, in *ssm.PutParameterInput, w backends.Write) (backends.VersionID, error) {
	if w.Expect != "" {
		return "", fmt.Errorf("%w: the current version is none, not %s", backends.ErrConflict, string(w.Expect))
	}
	in.Overwrite = aws.Bool(false)
	in.Description = withNote("", backends.Note{Of: idOf(1), Version: w.Version, Generation: w.Generation})
	for key, value := range d.cfg.Tags {
		in.Tags = append(in.Tags, types.Tag{Key: aws.String(key), Value: aws.String(value)})
	}
	d.forgetPass()
	return d.put(ctx, in, w.Value, types.ParameterHistory{})
}

// replace writes the version after the newest one, if that is the expected one.
func (d *Driver) replace(ctx context.Context, in *ssm.PutParameterInput, versions []types.ParameterHistory, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	newest := versions[len(versions)-1]
	next := newest.Version + 1
	switch {
	case idOf(newest.Version) != w.Expect && w.Expect == "":
		return "", fmt.Errorf("%w: the current version is %d, not none", backends.ErrConflict, newest.Version)
	case idOf(newest.Version) != w.Expect:
		return "", fmt.Errorf("%w: the current version is %d, not %s", backends.ErrConflict, newest.Version, string(w.Expect))
	case newest.Type != types.ParameterTypeSecureString:
		return "", fmt.Errorf("%w: the parameter is of type %s, which AWS keeps in clear and cannot change: delete it, and let it be made anew as a SecureString",
			backends.ErrUnsupported, newest.Type)
	}
	in.Overwrite = aws.Bool(true)
	in.AllowedPattern, in.DataType = newest.AllowedPattern, newest.DataType
	if in.KeyId == nil {
		in.KeyId = newest.KeyId
	}
	if newest.Tier == types.ParameterTierAdvanced {
		in.Tier = newest.Tier // AWS refuses a lower one
	}
	text, _ := splitNote(aws.ToString(newest.Description))
	in.Description = withNote(text, backends.Note{Of: idOf(next), Version: w.Version, Generation: w.Generation})

	id, err := d.put(ctx, in, w.Value, versions[0])
	if err == nil && id != idOf(next) {
		d.logger.Warn("somebody else wrote or deleted the secret at the same moment, and was overwritten",
			"secret", ref.String(), "expected", idOf(next), "written", id)
	}
	return id, err
}

// mending is after how long to ask again where somebody has to do something first.
const mending = time.Minute

// labelled is for AWS's refusal to drop the oldest version, which it has to in order
// to write one more. It is ErrUnavailable, not ErrConflict: nobody else wrote, and the
// write is made as soon as somebody has taken the labels off.
func (d *Driver) labelled(name string, oldest types.ParameterHistory) error {
	labels := strings.Join(oldest.Labels, " ")
	return backends.After(mending, fmt.Errorf("%w: AWS keeps so many versions and no more, and does not drop the oldest one, %d, as long as it has the labels %s; "+
		"`aws ssm unlabel-parameter-version --region %s --name %s --parameter-version %d --labels %s` takes them off",
		backends.ErrUnavailable, oldest.Version, labels, d.cfg.Conn.Region, name, oldest.Version, labels))
}

// put sends a write and returns its version. The oldest version there is makes way for
// it where AWS keeps no more.
func (d *Driver) put(ctx context.Context, in *ssm.PutParameterInput, value backends.Value, oldest types.ParameterHistory) (backends.VersionID, error) {
	out, err := d.client.PutParameter(ctx, in, notTwice)
	var full *types.ParameterMaxVersionLimitExceeded
	switch {
	case errors.As(err, &full):
		return "", d.labelled(*in.Name, oldest)
	case err != nil:
		return "", awsconn.Fault(err, value)
	}
	return idOf(out.Version), nil
}

// notTwice keeps the SDK from sending a request again that may have had its effect.
func notTwice(o *ssm.Options) {
	if r, ok := o.Retryer.(aws.RetryerV2); ok {
		o.Retryer = afterRefusal{r}
		return
	}
	o.Retryer = aws.NopRetryer{}
}

// afterRefusal retries only what AWS has refused, such as for credentials that have
// been replaced since.
type afterRefusal struct{ aws.RetryerV2 }

func (r afterRefusal) IsErrorRetryable(err error) bool {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) {
		return false
	}
	status := answer.HTTPStatusCode()
	return status >= http.StatusBadRequest && status < http.StatusInternalServerError && r.RetryerV2.IsErrorRetryable(err)
}

// Retire implements backends.Driver: the version loses its labels, whoever gave
// them, and AWS drops it some day.
func (d *Driver) Retire(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	name, err := d.parameter(ref)
	if err != nil {
		return err
	}
	versions, err := d.history(ctx, name)
	if errors.Is(err, backends.ErrNotFound) {
		return nil // with all its versions
	}
	if err != nil {
		return err
	}
	if idOf(versions[len(versions)-1].Version) == id {
		return fmt.Errorf("%w: version %s is the current one", backends.ErrConflict, id)
	}
	for _, v := range versions {
		if idOf(v.Version) == id && len(v.Labels) > 0 {
			return d.unlabel(ctx, name, v)
		}
	}
	return nil
}

// unlabel takes all labels off a version, of which there are no more than one request
// takes: 10.
func (d *Driver) unlabel(ctx context.Context, name string, v types.ParameterHistory) error {
	_, err := d.client.UnlabelParameterVersion(ctx, &ssm.UnlabelParameterVersionInput{
		Name: &name, ParameterVersion: &v.Version, Labels: v.Labels,
	})
	if err = awsconn.Fault(err); errors.Is(err, backends.ErrNotFound) {
		return nil // dropped since
	}
	return err
}

// Destroy implements backends.Driver: AWS deletes whole parameters only.
func (d *Driver) Destroy(context.Context, backends.Ref, backends.VersionID) error {
	return fmt.Errorf("%w: Parameter Store destroys no single version; AWS drops one after the next hundred", backends.ErrUnsupported)
}
