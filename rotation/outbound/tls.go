package outbound

import "crypto/tls"

// handshake is the TLS of a client. No session is resumed: each handshake verifies the
// server's certificate, and asks the options' functions.
func handshake(opts Options) *tls.Config {
	c := &tls.Config{MinVersion: max(opts.MinVersion, tls.VersionTLS12), RootCAs: opts.RootCAs}
	if verify := opts.VerifyConnection; verify != nil {
		c.VerifyConnection = func(state tls.ConnectionState) error {
			if err := verify(state); err != nil {
				return ownError{err}
			}
			return nil
		}
	}
	if give := opts.ClientCertificate; give != nil {
		c.GetClientCertificate = func(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			certificate, err := give(asked)
			if err != nil {
				return nil, ownError{err}
			}
			return certificate, nil
		}
	}
	return c
}

// ownError is an error of one of the options' functions.
type ownError struct{ error }
