// Package awsconn gets and renews credentials for AWS, for everything that talks to it.
package awsconn

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/keybroker/keybroker/backends"
)

// Config says which region and as whom. It is decoded from the attributes of a
// block that needs AWS; such a block's own Config takes it in by a field
//
//	Conn awsconn.Config `hcl:",remain"`
//
// At most one of the key pair, CredentialsFile and Profile is given. With none, or
// with a Profile, the SDK's default chain finds the credentials: environment,
// shared files, web identity, container, instance. Nothing but credentials is taken
// from there, so that two AWS blocks in one process never mix and the variable that
// leads applications to keybroker's own Secrets Manager facade
// (AWS_ENDPOINT_URL_SECRETS_MANAGER) does not lead keybroker to itself.
type Config struct {
	Region     string `hcl:"region"`                // "eu-central-1"
	Endpoint   string `hcl:"endpoint,optional"`     // of the one service that the block is about, e.g. a VPC or FIPS endpoint
	CACertFile string `hcl:"ca_cert_file,optional"` // PEM; default: the system's roots

	// A key pair lives as long as the configuration: file() is read again at a reload.
	AccessKeyID     backends.SecretString `hcl:"access_key_id,optional"`
	SecretAccessKey backends.SecretString `hcl:"secret_access_key,optional"`
	SessionToken    backends.SecretString `hcl:"session_token,optional"`

	// CredentialsFile is in the form of ~/.aws/credentials; its section [default] is
	// read again every minute, and at once when its keys are refused.
	CredentialsFile string `hcl:"credentials_file,optional" file:"reread"`

	Profile    string      `hcl:"profile,optional"` // of the default chain's shared files
	AssumeRole *AssumeRole `hcl:"assume_role,block"`
}

// AssumeRole is a role to assume with the credentials, again and again before the
// session ends.
type AssumeRole struct {
	RoleARN     string        `hcl:"role_arn"`
	SessionName string        `hcl:"session_name,optional"` // in CloudTrail; default "keybroker"
	ExternalID  string        `hcl:"external_id,optional"`
	Duration    time.Duration `hcl:"duration,optional"` // of a session, 15m to 12h; default 15m
	Endpoint    string        `hcl:"endpoint,optional"` // of STS; default: the region's
}

var (
	region      = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)+$`)
	roleARN     = regexp.MustCompile(`^arn:[\w-]+:iam::\d{12}:role/[\w+=,.@/-]+$`)
	sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
)

// Validate reports every mistake in c, joined, each an ErrInvalid. It reads no
// file and asks no server.
func (c Config) Validate() error {
	var mistakes []error
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	if !region.MatchString(c.Region) {
		wrong("region %q is no AWS region: write one like eu-central-1", c.Region)
	}
	validateEndpoint("endpoint", c.Endpoint, wrong)
	pair := c.AccessKeyID != "" || c.SecretAccessKey != "" || c.SessionToken != ""
	if pair && (c.AccessKeyID == "" || c.SecretAccessKey == "") {
		wrong("access_key_id and secret_access_key need each other")
	}
	for name, text := range map[string]backends.SecretString{
		"access_key_id": c.AccessKeyID, "secret_access_key": c.SecretAccessKey, "session_token": c.SessionToken,
	} {
		if !printable(text) {
			wrong("%s is not one printable line", name)
		}
	}
	if count(pair, c.CredentialsFile != "", c.Profile != "") > 1 {
		wrong("access_key_id, credentials_file and profile exclude each other: keep one of them")
	}
	if c.AssumeRole != nil {
		c.AssumeRole.validate(wrong)
	}
	return errors.Join(mistakes...)
}

func (a AssumeRole) validate(wrong func(format string, args ...any)) {
	if !roleARN.MatchString(a.RoleARN) {
		wrong("assume_role.role_arn %q is no role's ARN: write one like arn:aws:iam::123456789012:role/keybroker", a.RoleARN)
	}
	if a.SessionName != "" && !sessionName.MatchString(a.SessionName) {
		wrong("assume_role.session_name %q is not made of 2 to 64 letters, digits and _ + = , . @ -", a.SessionName)
	}
	if a.Duration != 0 && (a.Duration < 15*time.Minute || a.Duration > 12*time.Hour) {
		wrong("assume_role.duration is %s: write one from 15m to 12h", a.Duration)
	}
	validateEndpoint("assume_role.endpoint", a.Endpoint, wrong)
}

func validateEndpoint(name, endpoint string, wrong func(format string, args ...any)) {
	if endpoint == "" {
		return
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		wrong("%s must be a URL like https://vpce-1.secretsmanager.eu-central-1.vpce.amazonaws.com", name)
	case u.User != nil:
		wrong("%s must not hold credentials", name)
	case u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		wrong("%s must end after the host and port", name)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		wrong("%s must begin with https:// off loopback: over plain HTTP every secret would be seen on the way. Write https://%s", name, u.Host)
	}
}

// Place names the account and region that c leads to: two configurations with the
// same place see the same secrets, parameters and keys. Which account credentials
// belong to is not told by them, so they themselves stand for it where no role does.
// Empty where there is no region.
func (c Config) Place() string {
	if c.Region == "" {
		return ""
	}
	account := "default chain " + c.Profile
	switch {
	case c.AssumeRole != nil:
		account, _, _ = strings.Cut(c.AssumeRole.RoleARN, ":role/") // ends in the account's number
	case c.AccessKeyID != "":
		sum := sha256.Sum256([]byte(c.AccessKeyID.Reveal()))
		account = "key " + hex.EncodeToString(sum[:8])
	case c.CredentialsFile != "":
		account = "file " + c.CredentialsFile
	}
	return strings.Join([]string{c.Region, strings.TrimSuffix(c.Endpoint, "/"), account}, " ")
}

// loopback tells whether only this machine is reached by host.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// printable tells whether s can stand in a header; a file that ends in a line
// break cannot.
func printable(s backends.SecretString) bool {
	return strings.IndexFunc(s.Reveal(), func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

func count(given ...bool) int {
	n := 0
	for _, g := range given {
		if g {
			n++
		}
	}
	return n
}
