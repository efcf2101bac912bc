package awsiam

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/rotation/issuer"
)

const (
	// maxKeys is how many access keys IAM lets a user have, active or not, which cannot
	// be raised (IAM user guide, "IAM and AWS STS quotas").
	maxKeys = 2

	// defaultSoak is the day that AWS advises to wait, at least, between making a key
	// inactive and deleting it, to see who still needs it (IAM user guide, "Update access
	// keys").
	defaultSoak = 24 * time.Hour

	// defaultBudget is for IAM's eventual consistency. Deleted keys were measured to be
	// accepted for about 4 s more (OFFENSAI, "AWS IAM eventual consistency", 2025, in
	// us-east-1 and eu-central-1); AWS itself speaks of a few minutes for changes of
	// policies (IAM user guide, "Disabling permissions for temporary security
	// credentials") and promises nothing.
	defaultBudget = 2 * time.Minute
)

// The parts of a value and of a handle. The id stands in both: AWS shows it openly.
const (
	fieldID     = "access_key_id"
	fieldSecret = "secret_access_key"
	handleUser  = "user"
	handleID    = "access_key_id"
)

// Config is the block `issuer "aws_iam" NAME`.
type Config struct {
	Conn awsconn.Config `hcl:",remain"`

	// STSEndpoint is where Check asks who the issuer is; default: the region's.
	STSEndpoint string `hcl:"sts_endpoint,optional"`
	// Soak is how long a key is only inactive before it is deleted; "0s": it is deleted
	// at once. Default 24h.
	Soak *time.Duration `hcl:"soak,optional"`
	// Exclusive: nobody but the broker makes access keys for these users.
	Exclusive bool `hcl:"exclusive,optional"`
	// EndSessions: sessions begun with a key end with it, and those that its
	// successor has begun by then.
	EndSessions         bool           `hcl:"end_sessions,optional"`
	RevocationBudget    *time.Duration `hcl:"revocation_budget,optional"` // default 2m
	AllowPrivateNetwork bool           `hcl:"allow_private_network,optional"`
}

// Validate reports every mistake in c, joined, each an ErrInvalid. It reads no
// file and asks no server.
func (c Config) Validate() error {
	mistakes := []error{c.Conn.Validate()}
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	endpoints := map[string]string{"endpoint": c.Conn.Endpoint, "sts_endpoint": c.STSEndpoint}
	if c.Conn.AssumeRole != nil {
		endpoints["assume_role.endpoint"] = c.Conn.AssumeRole.Endpoint
	}
	for _, name := range slices.Sorted(maps.Keys(endpoints)) {
		u, err := url.Parse(endpoints[name])
		switch {
		case endpoints[name] == "":
		case name == "sts_endpoint" && (err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != ""):
			wrong("sts_endpoint must be a URL that ends after the host and port: write one like https://sts.eu-central-1.amazonaws.com")
		case err != nil: // told by Conn
		case u.Scheme != "https" && !c.AllowPrivateNetwork:
			wrong("%s must begin with https://: plain HTTP is for a server on this machine, with allow_private_network = true", name)
		}
	}
	if c.Soak != nil && *c.Soak < 0 {
		wrong(`soak is %s: write a duration like "24h", or "0s" to delete a key as soon as it is inactive`, *c.Soak)
	}
	if c.RevocationBudget != nil && *c.RevocationBudget <= 0 {
		wrong(`revocation_budget is %s: write a duration like "2m"`, *c.RevocationBudget)
	}
	return errors.Join(mistakes...)
}

// Place names the account whose users c leads to, as far as can be told: awsconn's
// region and what it logs in with stand for it.
func (c Config) Place() string { return c.Conn.Place() }

// Traits says what an issuer of this configuration can do.
func (c Config) Traits() issuer.Traits {
	t := issuer.Traits{
		Kind: issuer.Mint, Fields: []string{fieldID, fieldSecret}, Handle: []string{handleID, handleUser},
		MaxLive: maxKeys, ShowOnce: true, DerivedSessions: true, Exclusive: c.Exclusive,
		RevocationBudget: defaultBudget, Soak: defaultSoak,
	}
	if c.RevocationBudget != nil {
		t.RevocationBudget = *c.RevocationBudget
	}
	if c.Soak != nil {
		t.Soak = *c.Soak
	}
	return t
}

// userName is of CreateUser's parameter UserName (IAM API reference).
var userName = regexp.MustCompile(`^[\w+=,.@-]{1,64}$`)

// CheckSettings implements issuer.SettingsChecker: a secret says which user's keys
// it holds.
func (c Config) CheckSettings(settings json.RawMessage) []string {
	var given map[string]json.RawMessage
	if len(settings) > 0 && json.Unmarshal(settings, &given) != nil {
		return []string{"the settings must be an object"}
	}
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if name != handleUser {
			problems = append(problems, fmt.Sprintf("%s is unknown: an IAM access key needs user alone", name))
		}
	}
	if _, err := userIn(settings); err != nil {
		problems = append(problems, err.Error())
	}
	return problems
}

// userIn returns the user that a secret's settings name.
func userIn(settings json.RawMessage) (string, error) {
	var s struct {
		User string `json:"user"`
	}
	if len(settings) > 0 && json.Unmarshal(settings, &s) != nil {
		return "", errors.New(`user must be the name of an IAM user, as in user = "ci-deploy"`)
	}
	switch {
	case s.User == "":
		return "", errors.New(`user is missing: it is the IAM user whose access keys are made, as in user = "ci-deploy"`)
	case strings.HasPrefix(s.User, "arn:"):
		return "", fmt.Errorf("user %q is an ARN: write the name alone, which stands after the last slash", s.User)
	case !userName.MatchString(s.User):
		return "", fmt.Errorf("user %q is no name of an IAM user: it has 1 to 64 letters, digits and _ + = , . @ -", s.User)
	}
	return s.User, nil
}
