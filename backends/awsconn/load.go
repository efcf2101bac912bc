package awsconn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
)

// requestTimeout bounds one request whose context has no earlier deadline, such
// as the one for credentials that several calls wait for.
const requestTimeout = 30 * time.Second

// A request that failed in a way that asking again may mend is sent once more, all
// but at once: with other credentials, by a corrected clock, on a fresh connection; not
// where the answer says to wait. That is all: package backends' Mount, which counts, limits and times what is asked
// of a vault, waits and tries again. What is used of the SDK's adaptive mode is its
// rate: after a throttle every request through the same client waits, as long as its
// context lasts, until AWS keeps up again.
const (
	maxAttempts = 2
	maxBackoff  = 50 * time.Millisecond
)

// Load makes what the SDK's clients are made from. It asks nothing of AWS, which
// may be down: credentials are got with the first call, and renewed before they
// expire and whenever AWS refuses them. It fails with ErrInvalid only
// (configuration, unreadable CA file, shared files of the default chain).
//
// The clients' errors are given to Fault. CloseIdle ends what they leave open.
func Load(ctx context.Context, cfg Config, logger hclog.Logger) (aws.Config, error) {
	return load(ctx, cfg, logger, nil)
}

// LoadVia is Load where a dialer decides what may be connected to. The service and
// STS are then reached through it alone, and through no proxy, which would connect on
// our behalf, past the dialer. What the default chain asks for credentials (a
// container's or an instance's metadata) is not.
func LoadVia(ctx context.Context, cfg Config, logger hclog.Logger, dialer *net.Dialer) (aws.Config, error) {
	return load(ctx, cfg, logger, dialer)
}

func load(ctx context.Context, cfg Config, logger hclog.Logger, dialer *net.Dialer) (aws.Config, error) {
	if err := cfg.Validate(); err != nil {
		return aws.Config{}, err
	}
	client, err := cfg.client(dialer)
	if err != nil {
		return aws.Config{}, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	source, err := cfg.source(ctx)
	if err != nil {
		return aws.Config{}, err
	}
	conn := aws.Config{Region: cfg.Region, HTTPClient: client}
	conn = as(conn, newLogin(source, logger))
	if role := cfg.AssumeRole; role != nil {
		conn = as(conn, newLogin(role.provider(conn), logger))
	}
	if cfg.Endpoint != "" {
		conn.BaseEndpoint = aws.String(cfg.Endpoint)
	}
	return conn, nil
}

// as returns conn with other credentials, and with the retries that go with them.
func as(conn aws.Config, l *login) aws.Config {
	conn.Credentials = l
	conn.APIOptions = append(conn.APIOptions[:0:0], l.watch)
	conn.Retryer = func() aws.Retryer {
		return retry.AddWithErrorCodes(retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
			o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) {
				o.MaxAttempts, o.MaxBackoff = maxAttempts, maxBackoff
				o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(notToldToWait)}, o.Retryables...)
			})
		}), l.retried()...)
	}
	return conn
}

func notToldToWait(err error) aws.Ternary {
	_, header := response(err)
	if _, told := waitIn(header); told {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}

// CloseIdle closes the connections that the clients made from conn keep for
// later. Call it when the last of their calls is over.
func CloseIdle(conn aws.Config) {
	if c, ok := conn.HTTPClient.(*http.Client); ok {
		c.CloseIdleConnections()
	}
}

// client is the HTTP client, one for each Load. Like all of Go's it goes through
// the proxies that HTTPS_PROXY and NO_PROXY name, unless there is a dialer; AWS is
// spoken to over TLS.
func (c Config) client(dialer *net.Dialer) (*http.Client, error) {
	transport := cleanhttp.DefaultPooledTransport()
	if dialer != nil {
		transport.DialContext, transport.Proxy = dialer.DialContext, nil
	}
	transport.MaxIdleConnsPerHost = transport.MaxIdleConns // there are but two hosts, the service and STS
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CACertFile != "" {
		pem, err := os.ReadFile(c.CACertFile)
		if err != nil {
			return nil, fmt.Errorf("reading ca_cert_file: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_cert_file %s holds no PEM certificate", c.CACertFile)
		}
	}
	return &http.Client{
		Transport:     InMemory(transport),
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a signature is for one host
	}, nil
}
