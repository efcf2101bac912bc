package vaultconn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
)

// maxCredential is the longest a credential's file may be, in bytes.
const maxCredential = 64 << 10

// credential is what one way to log in sends: a secret text, fixed or out of a
// file that somebody else writes, and the name that goes with it.
type credential struct {
	Auth
	logger    hclog.Logger
	namespace string // without slashes at its ends
	file      string // empty: the text is fixed

	// A wrapping token is good once, so what was in the last one is kept.
	unwrapping sync.Mutex
	wrapping   backends.SecretString
	unwrapped  backends.SecretString
}

func newCredential(cfg Config, logger hclog.Logger) *credential {
	a := cfg.Auth[0]
	c := &credential{Auth: a, logger: logger, namespace: strings.Trim(cfg.Namespace, "/")}
	c.Mount = strings.TrimSuffix(a.Mount, "/")
	if c.Mount == "" {
		c.Mount = a.Method
	}
	switch a.Method {
	case methodToken:
		c.file = a.TokenFile
	case methodAppRole:
		c.file = a.SecretIDFile
	case methodKubernetes, methodJWT:
		c.file = a.JWTFile
	}
	if a.Method == methodKubernetes && c.file == "" {
		c.file = podTokenFile
	}
	return c
}

// state tells one content of the credential's file from another, for the price of
// one look at the directory. Safe for concurrent use.
func (c *credential) state() state {
	if c.file == "" {
		return state{}
	}
	info, err := os.Stat(c.file) // through links, which is how Kubernetes swaps its files
	if err != nil {
		return state{}
	}
	return state{info}
}

// state is zero where there is no file.
type state struct{ info fs.FileInfo }

func (s state) is(t state) bool {
	if s.info == nil || t.info == nil {
		return s.info == nil && t.info == nil
	}
	return os.SameFile(s.info, t.info) && s.info.ModTime().Equal(t.info.ModTime()) && s.info.Size() == t.info.Size()
}

// text is the secret text as it is now. A file that cannot be read, or holds no
// such text, is ErrUnavailable: it may be written a moment later.
func (c *credential) text() (backends.SecretString, error) {
	if c.file == "" {
		return c.Token + c.SecretID + c.JWT, nil // all but one are empty
	}
	f, err := os.Open(c.file)
	if err != nil {
		return "", fmt.Errorf("%w: reading the credential: %w", backends.ErrUnavailable, err)
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxCredential))
	if err != nil {
		return "", fmt.Errorf("%w: reading the credential: %w", backends.ErrUnavailable, err)
	}
	text := strings.TrimSpace(string(content))
	if !printable(text) {
		return "", fmt.Errorf("%w: %s does not hold a credential in one printable line", backends.ErrUnavailable, c.file)
	}
	return backends.SecretString(text), nil
}

var errNoVault = fmt.Errorf("%w: what answers the login is no Vault, or it gives no token", backends.ErrUnavailable)

// login asks Vault for a token, by a client that has none.
func (c *credential) login(ctx context.Context, client *api.Client) (*api.SecretAuth, error) {
	text, err := c.text()
	if err != nil {
		return nil, err
	}
	var body map[string]any
	switch c.Method {
	case methodToken:
		return c.adopt(ctx, client, text)
	case methodAppRole:
		if c.SecretIDWrapped {
			if text, err = c.unwrap(ctx, client, text); err != nil {
				return nil, err
			}
		}
		body = map[string]any{"role_id": c.RoleID.Reveal(), "secret_id": text.Reveal()}
	default:
		body = map[string]any{"role": c.Role, "jwt": text.Reveal()}
	}
	answer, err := client.Logical().WriteWithContext(ctx, "auth/"+c.Mount+"/login", body)
	if err != nil {
		return nil, loginFault(err, body)
	}
	if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
		return nil, errNoVault
	}
	return answer.Auth, nil
}

// loginFault differs from fault in that a refused login is ErrDenied whatever
// its status: AppRole answers 400 to a wrong role or secret id, and a mount that
// does not exist must never look like a secret that does not.
func loginFault(err error, sent map[string]any) error {
	return faultAs(err, sent, func(class error) error {
		if errors.Is(class, backends.ErrUnavailable) {
			return class
		}
		return backends.ErrDenied
	})
}

// adopt makes a login of a token that the operator gave. How long it lives and
// whether it can be renewed is asked of the server; a token that may not look
// itself up is used as it is.
func (c *credential) adopt(ctx context.Context, client *api.Client, token backends.SecretString) (*api.SecretAuth, error) {
	client.SetToken(token.Reveal())
	auth := &api.SecretAuth{ClientToken: token.Reveal()}
	self, err := client.Auth().Token().LookupSelfWithContext(ctx)
	switch {
	case err == nil && self == nil:
		return nil, errNoVault
	case unknownToken(err):
		return nil, fmt.Errorf("%w: vault does not know the token: it has expired or was revoked", backends.ErrDenied)
	case errors.Is(fault(err, nil), backends.ErrDenied):
		c.logger.Warn("the token is not renewed, since its policies do not let it use auth/token/lookup-self")
		return auth, nil
	case err != nil:
		return nil, fault(err, nil)
	}
	if ttl, ok := self.Data["ttl"].(json.Number); ok {
		seconds, _ := ttl.Int64()
		auth.LeaseDuration = int(seconds)
	}
	auth.Renewable, _ = self.Data["renewable"].(bool)
	return auth, nil
}

// secretIDPath is what response-wraps a secret id, below an AppRole mount.
var secretIDPath = regexp.MustCompile(`^role/[^/]+/(?:custom-)?secret-id$`)

// wraps tells whether the credential's mount gives a secret id away at this path. The
// whole of it counts: any token can have what it likes wrapped at
// cubbyhole/auth/approle/role/x/secret-id.
func (c *credential) wraps(path string) bool {
	if c.namespace != "" {
		path = strings.TrimPrefix(path, c.namespace+"/") // of Vault Enterprise, which may name it
	}
	path, ok := strings.CutPrefix(path, "auth/"+c.Mount+"/")
	return ok && secretIDPath.MatchString(path)
}

// unwrap returns the secret id in a wrapping token, asking Vault once for each
// token. Where it was wrapped is looked at first: what somebody caught, unwrapped and
// wrapped again is refused, unless he may make secret ids at our own mount.
func (c *credential) unwrap(ctx context.Context, client *api.Client, wrapping backends.SecretString) (backends.SecretString, error) {
	c.unwrapping.Lock()
	defer c.unwrapping.Unlock()
	if wrapping == c.wrapping {
		return c.unwrapped, nil
	}
	sent := map[string]any{"token": wrapping.Reveal()}
	of, err := client.Logical().WriteWithContext(ctx, "sys/wrapping/lookup", sent)
	switch {
	case err != nil:
		return "", c.notUnwrapped(loginFault(err, sent))
	case of == nil:
		return "", errNoVault
	}
	path, _ := of.Data["creation_path"].(string)
	if !c.wraps(path) {
		return "", fmt.Errorf("%w: what the wrapping token in %s holds was not wrapped by auth/%s: somebody may have come between", backends.ErrDenied, c.file, c.Mount)
	}
	answer, err := client.Logical().UnwrapWithContext(ctx, wrapping.Reveal())
	client.ClearToken() // the SDK sends the wrapping token as one
	switch {
	case err != nil:
		return "", c.notUnwrapped(loginFault(err, sent))
	case answer == nil:
		return "", errNoVault
	}
	id, _ := answer.Data["secret_id"].(string)
	if id == "" {
		return "", fmt.Errorf("%w: the wrapping token in %s held no secret id", backends.ErrDenied, c.file)
	}
	c.wrapping, c.unwrapped = wrapping, backends.SecretString(id)
	return c.unwrapped, nil
}

func (c *credential) notUnwrapped(err error) error {
	if errors.Is(err, backends.ErrDenied) {
		return fmt.Errorf("unwrapping the secret id in %s (the token expired, or was unwrapped before: have a new one written, and find out by whom): %w", c.file, err)
	}
	return fmt.Errorf("unwrapping the secret id in %s: %w", c.file, err)
}
