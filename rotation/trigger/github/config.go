package github

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"unicode"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const (
	defaultAPI = "https://api.github.com"
	pathOfKeys = "/meta/public_keys/secret_scanning"
	apiVersion = "2022-11-28" // of the REST API
)

// Config is what a block trigger "github_secret_scanning" says. One of the two is given:
// WebhookSecret for the alerts of one's own organisation, Partner for the feed of the
// partner program.
type Config struct {
	// WebhookSecret is that of the organisation's (or repository's) webhook; several, one a line.
	WebhookSecret backends.SecretString `hcl:"webhook_secret,optional"`
	Partner       bool                  `hcl:"partner,optional"`
	// Token reads alerts: a fine-grained token with "Secret scanning alerts" (read), or a
	// classic one with security_events. The feed needs none; with one GitHub lets more
	// requests for its keys through.
	Token backends.SecretString `hcl:"token,optional"`
	// APIURL is where the API is: "https://HOST/api/v3" of GitHub Enterprise Server;
	// default: https://api.github.com.
	APIURL string `hcl:"api_url,optional"`
	// KeysURL is where the keys of the partner feed are; default: below APIURL.
	KeysURL string `hcl:"keys_url,optional"`
	// AllowPrivateNetwork lets the API be in a private network, as that of GitHub Enterprise
	// Server often is.
	AllowPrivateNetwork bool   `hcl:"allow_private_network,optional"`
	CAFile              string `hcl:"ca_file,optional"`
}

// Validate returns what is wrong with c, one error a line, each beginning with what it is
// about. Offline says that secrets were not read. It reads no file and asks no server.
func (c *Config) Validate(offline bool) error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	switch {
	case c.WebhookSecret == "" && !c.Partner:
		wrong("webhook_secret is missing: write the secret of the organisation's webhook, or partner = true for the feed of the partner program")
	case c.WebhookSecret != "" && c.Partner:
		wrong("partner and webhook_secret exclude each other: make one trigger of each")
	case c.WebhookSecret != "" && c.Token == "":
		wrong("token is missing: an alert of a webhook does not hold the credential, which is read with a token that may read secret scanning alerts")
	}
	if c.KeysURL != "" && !c.Partner {
		wrong("keys_url is without effect: webhooks are signed with webhook_secret")
	}
	for _, given := range []struct{ name, text string }{{"api_url", c.APIURL}, {"keys_url", c.KeysURL}} {
		if given.text == "" {
			continue
		}
		at, err := endpoint(given.text)
		switch {
		case err != nil:
			wrong("%s %s", given.name, err)
		case !c.AllowPrivateNetwork && private(at.Hostname()):
			wrong("%s leads into a private network, where nothing is asked: set allow_private_network = true", given.name)
		}
	}
	if !offline {
		errs = append(errs, inbound.CheckSecrets("webhook_secret", c.WebhookSecret))
		if strings.ContainsFunc(c.Token.Reveal(), func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' }) {
			wrong("token is not one printable word")
		}
	}
	return errors.Join(errs...)
}

// endpoint reads a URL below which something is asked for: HTTPS off loopback, and nothing
// in it but host and path.
func endpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("is no URL like " + defaultAPI)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("holds more than host and path: credentials stand in token")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, errors.New("must begin with https:// off loopback: the token and the credentials that leaked would be seen on the way")
	}
	u.Path = "/" + strings.Trim(u.Path, "/") // to which a path can be added
	return u, nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// private tells whether a host is known to be in a network of one's own; of a name only its
// resolution would tell.
func private(host string) bool {
	ip, err := netip.ParseAddr(host)
	return loopback(host) || err == nil && (ip.Unmap().IsPrivate() || ip.Unmap().IsLinkLocalUnicast())
}

// sameHost tells whether two URLs lead to the same server.
func sameHost(a, b *url.URL) bool {
	port := func(u *url.URL) string {
		if u.Port() != "" {
			return u.Port()
		}
		return map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	at := func(u *url.URL) string { return net.JoinHostPort(strings.ToLower(u.Hostname()), port(u)) }
	return a.Scheme == b.Scheme && at(a) == at(b)
}
