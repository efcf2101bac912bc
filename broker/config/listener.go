package config

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// listenerSpec is a listener's block.
type listenerSpec struct {
	Type           string   `hcl:"type,label"`
	Address        string   `hcl:"address,optional"`
	TLSCertFile    string   `hcl:"tls_cert_file,optional"`
	TLSKeyFile     string   `hcl:"tls_key_file,optional"`
	TLSMinVersion  string   `hcl:"tls_min_version,optional"`
	AllowPlainHTTP bool     `hcl:"allow_plain_http,optional"`
	TrustedProxies []string `hcl:"trusted_proxies,optional"`
	MaxRequestSize string   `hcl:"max_request_size,optional"`
	Limits         *struct {
		PerAddress  *hclsyntax.Block `hcl:"per_address,block"`
		PerIdentity *hclsyntax.Block `hcl:"per_identity,block"`
		PerTenant   *hclsyntax.Block `hcl:"per_tenant,block"`
	} `hcl:"limits,block"`
}

func (l *loader) listener(b *hclsyntax.Block) {
	l.cfg.Listener = Listener{Address: defaultAddress, TLSMinVersion: tls.VersionTLS13, MaxRequestSize: defaultRequestSize}
	if b == nil {
		return
	}
	spec := listenerSpec{Address: defaultAddress}
	good := l.block(b, &spec)
	if len(b.Labels) != 1 || !l.oneOf("listener", b, spec.Type, "tcp") {
		return
	}
	c := &l.cfg.Listener
	c.TLSCertFile, c.TLSKeyFile, c.AllowPlainHTTP = spec.TLSCertFile, spec.TLSKeyFile, spec.AllowPlainHTTP
	c.TrustedProxies = l.proxies(b, spec.TrustedProxies)
	if spec.MaxRequestSize != "" {
		c.MaxRequestSize = l.requestSize(b, spec.MaxRequestSize)
	}
	if r := spec.Limits; r != nil {
		c.Limits = RequestLimits{PerAddress: l.rate(r.PerAddress), PerIdentity: l.rate(r.PerIdentity), PerTenant: l.rate(r.PerTenant)}
	}
	l.tlsVersion(b, spec)
	if !good {
		return
	}
	if problem := addressProblem(spec.Address); problem != "" {
		l.mistake(at(b, "address"), fmt.Sprintf("The address %q cannot be listened on: %s", spec.Address, problem), howToWriteAddresses)
		return // what depends on it is not judged
	}
	c.Address = spec.Address
	switch {
	case spec.TLSCertFile != "" && spec.TLSKeyFile == "":
		l.mistake(at(b, "tls_cert_file"), "There is a certificate without its key", "Add tls_key_file.")
	case spec.TLSCertFile == "" && spec.TLSKeyFile != "":
		l.mistake(at(b, "tls_key_file"), "There is a key without its certificate", "Add tls_cert_file.")
	case spec.TLSCertFile == "" && !loopback(spec.Address) && !spec.AllowPlainHTTP:
		l.mistake(at(b, "address"), "Plain HTTP off loopback would show every secret on the way",
			"Set tls_cert_file and tls_key_file, listen on 127.0.0.1, or insist with allow_plain_http = true.")
	}
	if spec.TLSMinVersion != "" && spec.TLSCertFile == "" {
		l.warn(at(b, "tls_min_version"), "tls_min_version is without effect: the listener speaks plain HTTP", "Set tls_cert_file and tls_key_file, or leave it out.")
	}
	l.loopbackProxies(b, spec.Address)
}

// tlsVersion reads the least version of TLS that is spoken.
func (l *loader) tlsVersion(b *hclsyntax.Block, spec listenerSpec) {
	where := at(b, "tls_min_version")
	switch spec.TLSMinVersion {
	case "", "1.3":
	case "1.2":
		l.cfg.Listener.TLSMinVersion = tls.VersionTLS12
		l.warn(where, "TLS 1.2 is weaker than 1.3: who calls is seen on the way, certificates of callers included",
			"Allow it for as long as there are callers that cannot do better, and leave it out then.")
	default:
		l.mistake(where, fmt.Sprintf("There is no tls_min_version %q here", spec.TLSMinVersion), `Write "1.3", the default, or "1.2".`)
	}
}

// loopbackProxies warns of proxies that anything on this machine can be.
func (l *loader) loopbackProxies(b *hclsyntax.Block, address string) {
	for _, proxy := range l.cfg.Listener.TrustedProxies {
		if proxy.IsLoopback() && !l.diags.HasErrors() {
			l.warn(at(b, "trusted_proxies"), fmt.Sprintf("The trusted proxy %s is this machine: every process here can say that it calls from anywhere", proxy),
				"What is bound to networks is then open to them. Let the proxy be the only one that can reach "+address+", or run it elsewhere.")
		}
	}
}

// The sizes that a request's body may be limited to, in bytes.
const (
	defaultRequestSize  = 1 << 20
	smallestRequestSize = 4 << 10
	largestRequestSize  = 64 << 20
)

func (l *loader) requestSize(b *hclsyntax.Block, text string) int64 {
	size, err := humanize.ParseBytes(text)
	switch {
	case err != nil:
		l.mistake(at(b, "max_request_size"), fmt.Sprintf("%q is no size", text), `Write a number with a unit, such as "512KiB" or "1MiB".`)
	case size < smallestRequestSize || size > largestRequestSize:
		l.mistake(at(b, "max_request_size"), fmt.Sprintf("Requests of %s at most are not possible", text), `Write a size between "4KiB" and "64MiB".`)
	default:
		return int64(size)
	}
	return defaultRequestSize
}

// telemetry decodes how the node itself is watched.
func (l *loader) telemetry(b *hclsyntax.Block) {
	l.cfg.Telemetry = Telemetry{Prometheus: true}
	if b == nil {
		return
	}
	var spec struct {
		Prometheus     bool   `hcl:"prometheus,optional"`
		Address        string `hcl:"address,optional"`
		AllowAnonymous bool   `hcl:"allow_anonymous,optional"`
		SecretNames    bool   `hcl:"secret_names,optional"`
	}
	spec.Prometheus = true
	good := l.block(b, &spec)
	l.cfg.Telemetry = Telemetry{Prometheus: spec.Prometheus, Address: spec.Address, SecretNames: spec.SecretNames}
	if spec.Address == "" {
		return
	}
	where := at(b, "address")
	problem := addressProblem(spec.Address)
	switch {
	case problem != "":
		l.mistake(where, fmt.Sprintf("The address %q cannot be listened on: %s", spec.Address, problem), howToWriteAddresses)
	case spec.Address == l.cfg.Listener.Address:
		l.mistake(where, fmt.Sprintf("The API listens on %s already", spec.Address),
			"Write another port, or leave it out: then /metrics is served there, to whoever may read sys/metrics.")
	case !good:
	case !loopback(spec.Address) && !spec.AllowAnonymous:
		l.mistake(where, "Off loopback metrics would be shown to whoever reaches the address: nobody is asked there who they are",
			"Listen on 127.0.0.1, leave the address out, or insist with allow_anonymous = true.")
	case !spec.Prometheus:
		l.warn(where, "The address is without effect: no metrics are served", "Leave it out, or prometheus = false.")
	case !loopback(spec.Address) && spec.SecretNames:
		l.warn(at(b, "secret_names"), fmt.Sprintf("Whoever reaches %s sees the names of all secrets", spec.Address), "Leave it out, or the address.")
	}
}

const howToWriteAddresses = `Write "HOST:PORT" with an IP address or "localhost", such as "127.0.0.1:8400".`

func addressProblem(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "it is not of the form HOST:PORT"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || (n == 0 && port != "0") {
		return fmt.Sprintf("%q is no port", port)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && host != "localhost" {
		return fmt.Sprintf("%q is no IP address of this machine", host)
	}
	return ""
}

// loopback tells whether only this machine reaches the address (host:port or a
// bare host).
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.Unmap().IsLoopback())
}
