package config

import (
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// messageSpec is what webhooks and inboxes say of their messages.
type messageSpec struct {
	Payload           webhook.Payload       `hcl:"payload,optional"`
	PublicKeyFile     string                `hcl:"public_key_file,optional"`
	Signature         webhook.Algorithm     `hcl:"signature,optional"`
	SigningSecret     backends.SecretString `hcl:"signing_secret,optional"`
	SigningSecretFile string                `hcl:"signing_secret_file,optional" file:"reread"`
}

// webhookSpec is what a webhook says of where its messages go.
type webhookSpec struct {
	URL                 string   `hcl:"url"`
	AllowPrivateNetwork bool     `hcl:"allow_private_network,optional"`
	Concurrency         *int     `hcl:"concurrency"`
	Pins                []string `hcl:"pins,optional"`
	TLSMinVersion       string   `hcl:"tls_min_version,optional"`
	CAFile              string   `hcl:"ca_file,optional"`
	ClientCertFile      string   `hcl:"client_cert_file,optional" file:"reread"`
	ClientKeyFile       string   `hcl:"client_key_file,optional" file:"reread"`
}

func (l *loader) webhook(b *hclsyntax.Block, c *Consumer) {
	var m messageSpec
	var spec webhookSpec
	l.block(b, &m, &spec)
	if spec.Concurrency != nil && !l.spoilt(at(b, "concurrency")) {
		mend := fmt.Sprintf("Write 1 to %d, or leave it out for %d.", mostConcurrency, defaultConcurrency)
		if c.Concurrency = *spec.Concurrency; c.Concurrency < 1 {
			l.mistake(at(b, "concurrency"), fmt.Sprintf("With a concurrency of %d nothing would ever be sent", c.Concurrency), mend)
		} else if c.Concurrency > mostConcurrency {
			l.mistake(at(b, "concurrency"), fmt.Sprintf("A concurrency of %d is more than a node opens connections to one consumer", c.Concurrency), mend)
		}
	}
	l.message(b, m, c)
	c.Endpoint = webhook.Endpoint{URL: spec.URL, AllowPrivate: spec.AllowPrivateNetwork, TLS: webhook.TLS{
		MinVersion: l.leastTLS(b, spec.TLSMinVersion), CAFile: spec.CAFile, CertFile: spec.ClientCertFile, KeyFile: spec.ClientKeyFile, Pins: spec.Pins}}
	l.webhookTLS(b, c.Endpoint)
	if written(b, "url") && !l.spoilt(at(b, "url")) {
		l.webhookURL(b, c.Endpoint, c.Payload)
	}
	c.digest = func(w io.Writer) {
		digest(w, "", reflect.ValueOf(m))
		digest(w, "", reflect.ValueOf(spec))
	}
}

// message checks what is sent, sealed for whom, and signed how.
func (l *loader) message(b *hclsyntax.Block, m messageSpec, c *Consumer) {
	if m.Payload != "" {
		c.Payload = m.Payload
	}
	c.PublicKeyFile, c.SigningSecret, c.SigningSecretFile = m.PublicKeyFile, m.SigningSecret, m.SigningSecretFile
	l.payload(b, c)
	l.signature(b, m, c)
}

const howToGiveKeys = "It holds one or several public keys of the consumer: a JWK, a set of them, or PEM."

// payload checks how the value is handed over.
func (l *loader) payload(b *hclsyntax.Block, c *Consumer) {
	where, key := at(b, "payload"), at(b, "public_key_file")
	known := webhook.Payloads()
	switch {
	case l.spoilt(where, key) || l.unknown[b.DefRange()]:
	case !slices.Contains(known, c.Payload):
		l.mistake(where, fmt.Sprintf("There is no payload %q", string(c.Payload)), suggest(string(c.Payload), texts(known)))
		c.Payload = webhook.Reference
	case c.Payload == webhook.Sealed && c.PublicKeyFile == "":
		l.mistake(where, "A sealed payload needs the public key of its consumer", `Write public_key_file = "…". `+howToGiveKeys)
	case c.Payload != webhook.Sealed && c.PublicKeyFile != "":
		l.mistake(key, fmt.Sprintf("The public key is without effect: the payload is %q", string(c.Payload)), `Write payload = "sealed", or leave the key out.`)
	case c.PublicKeyFile != "" && !l.opts.Offline:
		if _, err := webhook.ReadRecipients(c.PublicKeyFile); err != nil {
			l.mistake(key, "The public key cannot be used: "+reasonText(err), howToGiveKeys)
		}
	}
}

func texts[T ~string](all []T) []string {
	out := make([]string, len(all))
	for i, one := range all {
		out[i] = string(one)
	}
	return out
}

// signature checks what messages are signed with. An operator's secret says itself of
// which algorithm it is.
func (l *loader) signature(b *hclsyntax.Block, m messageSpec, c *Consumer) {
	where := at(b, "signature")
	known := []webhook.Algorithm{webhook.Ed25519, webhook.HMAC}
	asked := m.Signature != "" && !l.spoilt(where)
	if asked && !slices.Contains(known, m.Signature) {
		l.mistake(where, fmt.Sprintf("There is no signature %q", string(m.Signature)), `Write "ed25519", the default, or "hmac".`)
		asked = false
	}
	if asked {
		c.Signature = m.Signature
	}
	for i, s := range l.signingSecrets(b, m) {
		switch is, _ := webhook.AlgorithmOf(s); { // they were taken
		case asked && is != m.Signature:
			l.mistake(where, fmt.Sprintf("The signature is %q, but the signing secret is of %q", string(m.Signature), string(is)),
				"Leave the signature out: the secret says it, beginning with whsec_ (hmac) or whsk_ (ed25519).")
			return
		case i == 0:
			c.Signature = is
		}
	}
}

// signingSecrets returns the operator's secrets, if there are any that one can sign with.
func (l *loader) signingSecrets(b *hclsyntax.Block, m messageSpec) []backends.SecretString {
	where, secrets := at(b, "signing_secret"), []backends.SecretString{m.SigningSecret}
	switch inFile := at(b, "signing_secret_file"); {
	case m.SigningSecret != "" && m.SigningSecretFile != "":
		l.mistake(inFile, "There are two signing secrets", "Write signing_secret or signing_secret_file, or neither: then the broker makes and keeps a key of its own.")
		return nil
	case m.SigningSecret == "" && m.SigningSecretFile == "", l.opts.Offline:
		return nil
	case m.SigningSecretFile != "":
		content, err := readRegular(m.SigningSecretFile)
		if err != nil {
			l.mistake(inFile, fmt.Sprintf("The signing secret cannot be read: %s", err), "The file holds secrets, one a line, that you made. Leave it out, and the broker makes and keeps a key of its own.")
			return nil
		}
		return l.secretLines(inFile, string(content))
	}
	if _, err := webhook.NewSigner(secrets...); err != nil {
		l.mistake(where, "The signing secret cannot be used", reasonOf(err))
		return nil
	}
	return secrets
}

// secretLines returns the secrets of a signing_secret_file, if one can sign with all.
func (l *loader) secretLines(where hcl.Range, content string) []backends.SecretString {
	var found []backends.SecretString
	number := 0
	for line := range strings.Lines(content) {
		number++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		s := backends.SecretString(line)
		if _, err := webhook.NewSigner(s); err != nil {
			l.mistake(where, fmt.Sprintf("The signing secret in line %d of the file cannot be used", number), reasonOf(err))
			return nil
		}
		found = append(found, s)
	}
	if len(found) == 0 {
		l.mistake(where, "The file holds no signing secret", "Write them one a line, or leave the file out: then the broker makes and keeps a key of its own.")
	}
	return found
}

// leastTLS reads the least version of TLS that a consumer is told by.
func (l *loader) leastTLS(b *hclsyntax.Block, version string) uint16 {
	switch where := at(b, "tls_min_version"); version {
	case "", "1.3":
	case "1.2":
		return tls.VersionTLS12
	default:
		l.mistake(where, fmt.Sprintf("There is no tls_min_version %q here", version), `Write "1.3", the default, or "1.2".`)
	}
	return tls.VersionTLS13
}

// webhookTLS checks how the consumer is known, and how it knows the broker.
func (l *loader) webhookTLS(b *hclsyntax.Block, e webhook.Endpoint) {
	for _, pair := range [][2]string{{"client_cert_file", "client_key_file"}, {"client_key_file", "client_cert_file"}} {
		if written(b, pair[0]) && !written(b, pair[1]) {
			l.mistake(at(b, pair[0]), fmt.Sprintf("%s is without effect alone", pair[0]), fmt.Sprintf("Write %s = … beside it.", pair[1]))
		}
	}
	if u, err := url.Parse(e.URL); err == nil && strings.EqualFold(u.Scheme, "http") {
		for _, name := range []string{"pins", "tls_min_version", "ca_file", "client_cert_file", "client_key_file"} {
			if written(b, name) {
				l.mistake(at(b, name), fmt.Sprintf("%s is without effect: the url is http", name), "Use https, or leave it out.")
			}
		}
		return
	}
	l.pins(b, e.TLS.Pins)
	if l.opts.Offline || l.spoilt(at(b, "ca_file"), at(b, "client_cert_file"), at(b, "client_key_file")) {
		return
	}
	if e.TLS.CertFile != "" && e.TLS.KeyFile != "" {
		if _, err := tls.LoadX509KeyPair(e.TLS.CertFile, e.TLS.KeyFile); err != nil {
			l.mistake(at(b, "client_cert_file"), "The client certificate and its key cannot be used", upper(err.Error())+".")
		}
	}
	if e.TLS.CAFile != "" {
		if client, err := outbound.New(outbound.Options{CAFile: e.TLS.CAFile, Timeout: webhook.Timeout}); err != nil {
			l.mistake(at(b, "ca_file"), "The certificates of ca_file cannot be used", reasonOf(err))
		} else {
			client.Close()
		}
	}
}

// pins checks public keys of which one is to be in the consumer's chain.
func (l *loader) pins(b *hclsyntax.Block, pins []string) {
	where := at(b, "pins")
	if !written(b, "pins") || l.spoilt(where) {
		return
	}
	if len(pins) == 0 {
		l.mistake(where, "The list of pins is empty", "Write at least two pins, or leave it out.")
	}
	var keys []webhook.Pin
	for i, text := range pins {
		pin, err := webhook.ParsePin(text)
		switch {
		case err != nil:
			l.mistake(element(b, "pins", i), "The pin cannot be used", reasonOf(err))
		case slices.Contains(keys, pin):
			l.mistake(element(b, "pins", i), "The pin is listed twice", "Remove one: a backup is the pin of another key.")
		}
		keys = append(keys, pin)
	}
	if len(pins) == 1 {
		l.warn(where, "There is one pin alone: when that key is replaced, nothing can be sent any more",
			"Add a backup pin, of the key that comes next or of the authority that signs.")
	}
}

// credentialName is what a parameter of a query is called that holds a credential.
var credentialName = regexp.MustCompile(`(?i)token|secret|passw(or)?d|signature|api[-_.]?key|(^|[-_.])(key|sig|pwd|auth|code)$`)

// credentialIn says where in a URL there are, or seem to be, credentials; empty if there
// are none.
func credentialIn(u *url.URL) string {
	if u.User != nil {
		return " before its host"
	}
	for _, name := range slices.Sorted(maps.Keys(u.Query())) {
		if credentialName.MatchString(name) {
			return fmt.Sprintf(", it seems, in the parameter %q of its query", name)
		}
	}
	return ""
}

// webhookURL checks where deliveries go. The URL is not shown where it may hold
// credentials.
func (l *loader) webhookURL(b *hclsyntax.Block, e webhook.Endpoint, payload webhook.Payload) {
	where := at(b, "url")
	u, err := url.Parse(e.URL)
	credential := ""
	if err == nil {
		credential = credentialIn(u)
	}
	if err != nil || credential != "" {
		l.hidden = append(l.hidden, where)
	}
	if err := e.Check(payload); err != nil {
		l.mistake(where, "The webhook's url cannot be used", reasonOf(err))
		return
	}
	switch {
	case credential != "":
		l.mistake(where, "A literal where a secret belongs: the url holds credentials"+credential,
			"Leave them out: deliveries are signed, and that is how the consumer knows them.")
		return
	case u.Fragment != "":
		l.mistake(where, "The webhook's url has a fragment, which is sent to nobody", "Leave out the # and what follows it.")
		return
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil && loopback(u.Hostname()) {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if !addr.IsValid() {
		return // a name: the guard judges what it resolves to, when it is used
	}
	if err := outbound.CheckAddr(addr, e.AllowPrivate); err != nil {
		l.mistake(where, "The webhook's url leads where deliveries may not go", reasonOf(err))
	}
}
