// Package externalsecrets makes the External Secrets Operator refresh at once what it
// copied from a secret.
package externalsecrets

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
)

const (
	// The version that the operator stores since 0.16, and the only one it serves since 0.17.
	apiVersion = "external-secrets.io/v1"
	// fieldManager is what our changes are called in an object's managedFields.
	fieldManager = "keybroker"
	// mounted is where a pod finds its service account.
	mounted     = "/var/run/secrets/kubernetes.io/serviceaccount"
	callTimeout = 10 * time.Second
	maxAnswer   = 64 << 20
	pageSize    = "250"
)

// Access is where the API server is and what shows that we may use it.
type Access struct {
	Server    string // "https://10.96.0.1:443"
	TokenFile string // read at each call: the kubelet replaces it about every hour
	CAFile    string // PEM of the API server's authority
}

// InCluster is the access of a pod with a service account: what the kubelet gives it.
func InCluster() (Access, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return Access{}, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod of a cluster")
	}
	return Access{
		Server:    "https://" + net.JoinHostPort(host, port),
		TokenFile: filepath.Join(mounted, "token"),
		CAFile:    filepath.Join(mounted, "ca.crt"),
	}, nil
}

// Cluster is an API server. It needs no guard for outbound traffic: its address comes from
// the kubelet or a flag, and a message reaches no URL, only the value of an annotation.
// It is safe for concurrent use.
type Cluster struct {
	server    *url.URL
	tokenFile string
	http      http.Client
}

// Connect makes no call yet.
func Connect(a Access) (*Cluster, error) {
	server, err := url.Parse(a.Server)
	if err != nil || server.Scheme != "https" || server.Host == "" || server.User != nil {
		return nil, errors.New("the API server's address is not https://host:port")
	}
	pem, err := os.ReadFile(a.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the API server's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", a.CAFile)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil // the API server is inside of the cluster
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	c := &Cluster{server: server, tokenFile: a.TokenFile, http: http.Client{Transport: transport, Timeout: callTimeout}}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the token goes nowhere else
	return c, nil
}

// Close lets go of the connections.
func (c *Cluster) Close() { c.http.CloseIdleConnections() }

// Refusal is an answer of the API server that is no success, in its own words.
type Refusal struct {
	Code   int
	Reason string // "Forbidden"
	text   string
}

func (r *Refusal) Error() string {
	switch r.Code {
	case http.StatusUnauthorized:
		return "the API server does not know the service account's token"
	case http.StatusForbidden:
		return "the service account may not do this; is its Role bound in that namespace? " + r.text
	}
	return fmt.Sprintf("the API server answers %d %s", r.Code, r.text)
}

// refusedWith tells whether an error is the API server's answer with a status.
func refusedWith(err error, code int) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && r.Code == code
}

// list returns the ExternalSecrets of a namespace.
func (c *Cluster) list(ctx context.Context, namespace string) ([]ExternalSecret, error) {
	var all []ExternalSecret
	for next := ""; ; {
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []ExternalSecret `json:"items"`
		}
		err := c.call(ctx, http.MethodGet, Name{Namespace: namespace}, url.Values{"limit": {pageSize}, "continue": {next}}, nil, &page)
		if refusedWith(err, http.StatusNotFound) {
			return nil, fmt.Errorf("the cluster knows no ExternalSecrets of %s: is the External Secrets Operator, 0.16 or newer, installed?", apiVersion)
		}
		if err != nil {
			return nil, fmt.Errorf("listing the ExternalSecrets of %s: %w", namespace, err)
		}
		all = append(all, page.Items...)
		if next = page.Metadata.Continue; next == "" {
			return all, nil
		}
	}
}

func (c *Cluster) get(ctx context.Context, n Name) (ExternalSecret, error) {
	var e ExternalSecret
	if err := c.call(ctx, http.MethodGet, n, nil, nil, &e); err != nil {
		return e, fmt.Errorf("reading ExternalSecret %s: %w", n, err)
	}
	return e, nil
}

// annotate sets annotations of an ExternalSecret if it is still as we have read it; a
// Refusal with 409 otherwise.
func (c *Cluster) annotate(ctx context.Context, e ExternalSecret, annotations map[string]string) error {
	patch := map[string]any{"metadata": map[string]any{
		"resourceVersion": e.Metadata.ResourceVersion,
		"annotations":     annotations,
	}}
	query := url.Values{"fieldManager": {fieldManager}, "fieldValidation": {"Strict"}}
	if err := c.call(ctx, http.MethodPatch, e.Name(), query, patch, nil); err != nil {
		return fmt.Errorf("annotating ExternalSecret %s: %w", e.Name(), err)
	}
	return nil
}

// call makes one request about an object, or about all of a namespace. A patch is a
// merge patch (RFC 7396), which needs only the verb patch.
func (c *Cluster) call(ctx context.Context, method string, n Name, query url.Values, patch, into any) error {
	token, err := os.ReadFile(c.tokenFile)
	if err != nil {
		return fmt.Errorf("reading the service account's token: %w", err)
	}
	secret := backends.SecretString(strings.TrimSpace(string(token)))
	u := c.server.JoinPath("apis", apiVersion, "namespaces", url.PathEscape(n.Namespace), "externalsecrets")
	if n.Name != "" {
		u = u.JoinPath(url.PathEscape(n.Name))
	}
	u.RawQuery = query.Encode()
	var body bytes.Buffer
	if patch != nil {
		if err := json.NewEncoder(&body).Encode(patch); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, u.String(), &body)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Authorization", "Bearer "+secret.Reveal())
	if patch != nil {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("reading the API server's answer: %w", err)
	case response.StatusCode > 299:
		return refusal(response.StatusCode, text)
	case into != nil && json.Unmarshal(text, into) != nil:
		return errors.New("the API server's answer is not what was asked for")
	}
	return nil
}

// refusal reads the Status that an API server says no with; a proxy may answer otherwise.
func refusal(code int, text []byte) error {
	var status struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &status) != nil {
		status.Message = ""
	}
	return &Refusal{Code: code, Reason: status.Reason, text: cmp.Or(status.Message, http.StatusText(code))}
}
