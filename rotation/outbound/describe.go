package outbound

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
)

// remoteAlert is what crypto/tls says of a connection that an alert of the other side
// ended (RFC 8446, 6). The alert's text is crypto/tls's own, by its number.
const remoteAlert = "remote error"

// Describe names the cause of a failed exchange in fixed words; empty: it is none
// that is known. The texts of libraries quote URLs and what the server sent
// ("malformed HTTP response …"), where a credential may stand, so none of them is
// passed on.
func Describe(err error) string {
	for _, k := range known {
		if errors.Is(err, k.err) {
			return k.text
		}
	}
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		op        *net.OpError
		verify    *tls.CertificateVerificationError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(err, &dns):
		return "the resolver does not answer"
	case errors.As(err, &authority):
		return "TLS: the certificate is signed by an unknown authority"
	case errors.As(err, &hostname):
		return "TLS: the certificate is for another host"
	case errors.As(err, &invalid):
		return "TLS: the certificate is expired or otherwise invalid"
	case errors.As(err, &verify):
		return "TLS: the certificate is not accepted"
	case errors.As(err, &record):
		return "TLS: the server does not speak TLS"
	case errors.As(err, &op) && op.Op == remoteAlert:
		return "TLS: the server refuses: " + strings.TrimPrefix(op.Err.Error(), "tls: ")
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return ""
}

var known = []struct {
	err  error
	text string
}{
	{errTooLarge, "the answer is larger than allowed"},
	{syscall.ECONNREFUSED, "connection refused"},
	{syscall.ECONNRESET, "connection reset"},
	{syscall.EPIPE, "connection reset"},
	{syscall.EHOSTUNREACH, "host unreachable"},
	{syscall.ENETUNREACH, "network unreachable"},
	{io.ErrUnexpectedEOF, "the connection was closed within the answer"},
	{io.EOF, "the connection was closed without an answer"},
}
