package vaultconn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
)

func (c Config) transport() (*http.Transport, error) {
	conf, err := c.tls()
	if err != nil {
		return nil, err
	}
	t := cleanhttp.DefaultPooledTransport()
	t.TLSClientConfig = conf
	t.MaxIdleConnsPerHost = t.MaxIdleConns // there is but one host
	return t, nil
}

func (c Config) tls() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName}
	if c.ClientCertFile != "" {
		present := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.ClientCertFile, c.ClientKeyFile)
			if err != nil {
				return nil, fmt.Errorf("reading client_cert_file and client_key_file: %w", err)
			}
			return &pair, nil
		}
		if _, err := present(nil); err != nil {
			return nil, err
		}
		conf.GetClientCertificate = present
	}
	if c.CACertFile == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(c.CACertFile)
	if err != nil {
		return nil, fmt.Errorf("reading ca_cert_file: %w", err)
	}
	conf.RootCAs = x509.NewCertPool()
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_cert_file %s holds no PEM certificate", c.CACertFile)
	}
	return conf, nil
}

// newClient builds the SDK's client, without a token, from the configuration alone;
// its requests end with life. api.DefaultConfig and api.NewClient both read VAULT_* variables; what
// comes in that way is replaced here, every piece of it. Only variables that the
// SDK cannot parse still make it refuse, whoever asks.
func (c *Conn) newClient(life context.Context) (*api.Client, error) {
	return c.clientOver(life, c.transport)
}

func (c *Conn) clientOver(life context.Context, transport *http.Transport) (*api.Client, error) {
	client, err := api.NewClient(&api.Config{
		Address: c.cfg.Address,
		HttpClient: &http.Client{
			Transport:     &lifeTransport{base: transport, life: life},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the SDK follows them
		},
		MinRetryWait: time.Millisecond, // never used: MaxRetries is 0
		MaxRetryWait: time.Millisecond,
		Timeout:      requestTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: the Vault SDK cannot start (are VAULT_* variables of the environment malformed?): %w", backends.ErrInvalid, err)
	}
	client.ClearToken()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	client.ClearNamespace()
	if c.cfg.Namespace != "" {
		client.SetNamespace(c.cfg.Namespace)
	}
	return client, nil
}

// lifeTransport ends every request with a life, also those for which
// the SDK takes no context (renewals). It holds redirections to what the address
// itself is held to: no plain HTTP off loopback.
type lifeTransport struct {
	base http.RoundTripper
	life context.Context
}

func (t *lifeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !loopback(req.URL.Hostname()) {
		return nil, errors.New("vault redirects to plain HTTP off loopback, where the token and every secret would be seen on the way")
	}
	ctx, cancel := context.WithCancel(req.Context())
	stop := context.AfterFunc(t.life, cancel)
	release := func() { stop(); cancel() }
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		release()
		return nil, err
	}
	resp.Body = &releasingBody{ReadCloser: resp.Body, release: release}
	return resp, nil
}

type releasingBody struct {
	io.ReadCloser
	release func()
}

func (b *releasingBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}
