package awssts

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/keybroker/keybroker/backends"
)

const defaultTimeout = 10 * time.Second

// The fields of a value that are tried.
const (
	fieldID     = "access_key_id"
	fieldSecret = "secret_access_key"
)

// Config is the block `probe "aws_sts" NAME`.
type Config struct {
	Region   string `hcl:"region"`            // whose STS is asked, e.g. "eu-central-1"
	Endpoint string `hcl:"endpoint,optional"` // default: the region's

	// Account and ARN are whose keys have to be accepted; others prove nothing.
	Account string `hcl:"account,optional"` // "123456789012"
	ARN     string `hcl:"arn,optional"`     // "arn:aws:iam::123456789012:user/ci-deploy"

	// Canary is an access key that must always work, e.g. of a user without any
	// permissions: access_key_id and secret_access_key.
	Canary map[string]backends.SecretString `hcl:"canary,optional"`

	AllowPrivateNetwork bool           `hcl:"allow_private_network,optional"`
	CAFile              string         `hcl:"ca_file,optional"`
	Timeout             *time.Duration `hcl:"timeout,optional"` // of one try, default 10s
}

var (
	regionName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)+$`)
	accountID  = regexp.MustCompile(`^\d{12}$`)
)

// Validate reports every mistake in c, joined, each an ErrInvalid. It reads no
// file and asks no server.
func (c Config) Validate() error {
	var mistakes []error
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	if !regionName.MatchString(c.Region) {
		wrong("region %q is no AWS region: write one like eu-central-1", c.Region)
	}
	if c.Endpoint != "" {
		c.validateEndpoint(wrong)
	}
	if c.Account != "" && !accountID.MatchString(c.Account) {
		wrong("account %q is no number of an AWS account: write its 12 digits", c.Account)
	}
	if c.ARN != "" {
		switch whose, err := arn.Parse(c.ARN); {
		case err != nil || whose.Service != "iam" || !strings.HasPrefix(whose.Resource, "user/"):
			wrong("arn %q is no IAM user's ARN: write one like arn:aws:iam::123456789012:user/ci-deploy", c.ARN)
		case c.Account != "" && whose.AccountID != c.Account:
			wrong("arn is of account %s, and account is another: leave account out", whose.AccountID)
		}
	}
	if c.Canary != nil && !slices.Equal(slices.Sorted(maps.Keys(c.Canary)), []string{fieldID, fieldSecret}) {
		wrong("canary must have access_key_id and secret_access_key: and nothing else")
	}
	if c.Timeout != nil && *c.Timeout <= 0 {
		wrong(`timeout is %s: write a duration like "10s"`, *c.Timeout)
	}
	return errors.Join(mistakes...)
}

func (c Config) validateEndpoint(wrong func(format string, args ...any)) {
	u, err := url.Parse(c.Endpoint)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		wrong("endpoint must be a URL like https://sts.eu-central-1.amazonaws.com")
	case u.User != nil:
		wrong("endpoint must not hold credentials")
	case u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		wrong("endpoint must end after the host and port")
	case u.Scheme == "http" && !c.AllowPrivateNetwork:
		wrong("endpoint must begin with https://: plain HTTP is for a server on this machine, with allow_private_network = true")
	}
}

// hostPort is where an endpoint is.
func hostPort(u *url.URL) (host, port string) {
	if port = u.Port(); port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Hostname(), port
}

func address(u *url.URL) string { return net.JoinHostPort(hostPort(u)) }
