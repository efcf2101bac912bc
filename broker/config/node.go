package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
)

// node decodes what concerns this process alone: data_dir, listener, storage, seal.
func (l *loader) node(doc document, whole *hclsyntax.Body) {
	l.cfg.DataDir = l.path(doc.DataDir)
	if doc.DataDir == "" {
		if attr, ok := whole.Attributes["data_dir"]; ok && len(l.diags) == 0 {
			l.mistake(attr.Expr.Range(), "data_dir is empty", `Write a directory, or leave it out for "data".`)
		}
	}
	l.listener(doc.Listener)
	l.storage(doc.Storage)
	l.seals(doc.Seals, doc.Listener)
}

func (l *loader) listener(b *hclsyntax.Block) {
	l.cfg.Listener = Listener{Address: defaultAddress}
	if b == nil {
		return
	}
	var spec struct {
		Type           string `hcl:"type,label"`
		Address        string `hcl:"address,optional"`
		TLSCertFile    string `hcl:"tls_cert_file,optional"`
		TLSKeyFile     string `hcl:"tls_key_file,optional"`
		AllowPlainHTTP bool   `hcl:"allow_plain_http,optional"`
	}
	spec.Address = defaultAddress
	if !l.block(b, &spec) || !l.oneOf("listener", b, spec.Type, "tcp") {
		return
	}
	l.cfg.Listener = Listener{spec.Address, spec.TLSCertFile, spec.TLSKeyFile, spec.AllowPlainHTTP}
	if problem := addressProblem(spec.Address); problem != "" {
		l.mistake(at(b, "address"), fmt.Sprintf("The address %q cannot be listened on: %s", spec.Address, problem),
			`Write "HOST:PORT" with an IP address or "localhost", such as "127.0.0.1:8400".`)
		l.cfg.Listener.Address = defaultAddress // what depends on it is not judged
		return
	}
	switch {
	case spec.TLSCertFile != "" && spec.TLSKeyFile == "":
		l.mistake(at(b, "tls_cert_file"), "There is a certificate without its key", "Add tls_key_file.")
	case spec.TLSCertFile == "" && spec.TLSKeyFile != "":
		l.mistake(at(b, "tls_key_file"), "There is a key without its certificate", "Add tls_cert_file.")
	case spec.TLSCertFile == "" && !loopback(spec.Address) && !spec.AllowPlainHTTP:
		l.mistake(at(b, "address"), "Plain HTTP off loopback would show every secret on the way",
			"Set tls_cert_file and tls_key_file, listen on 127.0.0.1, or insist with allow_plain_http = true.")
	}
}

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

func (l *loader) storage(b *hclsyntax.Block) {
	l.cfg.Storage = Storage{Type: SQLite, Path: filepath.Join(l.cfg.DataDir, databaseFile)}
	if b == nil {
		return
	}
	var label struct {
		Type string `hcl:"type,label"`
	}
	switch StorageType(firstLabel(b)) {
	case SQLite:
		var spec struct {
			Path string `hcl:"path,optional"`
		}
		if l.block(b, &label, &spec) && spec.Path != "" {
			l.cfg.Storage.Path = l.path(spec.Path)
		}
	case PostgreSQL:
		var spec struct {
			URL backends.SecretString `hcl:"url"`
		}
		l.block(b, &label, &spec)
		l.cfg.Storage = Storage{Type: PostgreSQL, URL: spec.URL}
	default:
		if l.block(b, &label, anything{}) {
			l.oneOf("storage", b, label.Type, string(SQLite), string(PostgreSQL))
		}
	}
}

// oneOf tells whether the block's type is one of known.
func (l *loader) oneOf(kind string, b *hclsyntax.Block, given string, known ...string) bool {
	for _, k := range known {
		if given == k {
			return true
		}
	}
	l.mistake(labelRange(b, 0), fmt.Sprintf("There is no %s %q", kind, given), suggest(given, known))
	return false
}

func labelRange(b *hclsyntax.Block, i int) hcl.Range {
	if i < len(b.LabelRanges) {
		return b.LabelRanges[i]
	}
	return b.DefRange()
}
