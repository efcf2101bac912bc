package awssecrets

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
)

// The tags of a secret that hold the broker's note. They are written with a secret's
// first version, and after each later one: Secrets Manager keeps tags per secret and
// changes them by a request of its own. After staging they are about the pending
// version, since promoting it is to be the last request.
const (
	tagPrefix     = "keybroker-"
	tagOf         = tagPrefix + "version-id"
	tagVersion    = tagPrefix + "version"
	tagGeneration = tagPrefix + "generation"
)

func (v version) tags() []types.Tag {
	return []types.Tag{
		{Key: aws.String(tagOf), Value: aws.String(string(v.id))},
		{Key: aws.String(tagVersion), Value: aws.String(strconv.Itoa(v.Version))},
		{Key: aws.String(tagGeneration), Value: aws.String(strconv.FormatInt(v.Generation, 10))},
	}
}

// noteOf is zero unless all three tags are there and in our form.
func noteOf(tags []types.Tag) backends.Note {
	texts := map[string]string{}
	for _, tag := range tags {
		if key := aws.ToString(tag.Key); strings.HasPrefix(key, tagPrefix) {
			texts[key] = aws.ToString(tag.Value)
		}
	}
	number, err := strconv.Atoi(texts[tagVersion])
	generation, err2 := strconv.ParseInt(texts[tagGeneration], 10, 64)
	if texts[tagOf] == "" || errors.Join(err, err2) != nil {
		return backends.Note{}
	}
	return backends.Note{Of: backends.VersionID(texts[tagOf]), Version: number, Generation: generation}
}

const (
	// noteTimeout is what a note may take after its write.
	noteTimeout = 2 * time.Second
	// untaggedFor is how long a secret whose tags were refused is left alone.
	untaggedFor = time.Hour
)

// annotate notes what the new version is to keybroker. A failure does not fail the
// write, which has happened, and neither does it take up the write's time. It needs the
// right secretsmanager:TagResource to the secret, and is left out without it.
func (d *Driver) annotate(ctx context.Context, v version) {
	if until, refused := d.untagged.Load(v.ref); refused && d.now().Before(until.(time.Time)) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	_, err := d.client.TagResource(ctx, &secretsmanager.TagResourceInput{SecretId: d.id(v.ref), Tags: v.tags()})
	err = awsconn.Fault(err)
	switch {
	case err == nil:
		d.untagged.Delete(v.ref)
	case errors.Is(err, backends.ErrDenied):
		d.untagged.Store(v.ref, d.now().Add(untaggedFor))
		d.logger.Info("a secret's tags are left out for an hour; to have them, grant secretsmanager:TagResource", "secret", v.ref.String(), "error", err)
	default:
		d.logger.Debug("tags not written", "secret", v.ref.String(), "error", err)
	}
}
