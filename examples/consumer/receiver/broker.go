package receiver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
)

const (
	callTimeout = 10 * time.Second
	maxAnswer   = 16 << 20
)

// denied is why the broker does not let us in, or would not. To who may not, nothing is
// there, either.
type denied struct{ error }

// broker is the HTTP API of the broker.
type broker struct {
	url       *url.URL
	tokenFile string // empty: there is no token
	http      http.Client
}

func newBroker(address, tokenFile string) (*broker, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, errors.New("the broker's URL is not https://host[:port]")
	}
	host := u.Hostname()
	loopback := host == "localhost" || net.ParseIP(host).IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return nil, errors.New("the broker's URL is not https, as it must be except on this machine: its public keys and our token go over it")
	}
	b := &broker{url: u, tokenFile: tokenFile}
	b.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the token goes nowhere else
	return b, nil
}

// readToken is done for each call: tokens end, and are replaced.
func readToken(name string) (backends.SecretString, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return "", denied{fmt.Errorf("reading the broker token: %w", err)}
	}
	return backends.SecretString(strings.TrimSpace(string(text))), nil
}

// call makes one request, of JSON where there is a body, and decodes the answer unless
// into is nil. Its errors quote no body.
func (b *broker) call(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.wait(ctx, method, path, body, into)
}

// wait is call for as long as the context lasts.
func (b *broker) wait(ctx context.Context, method, path string, body, into any) error {
	u, err := b.url.Parse(path)
	if err != nil {
		return errors.New("this is no path at the broker")
	}
	var sent bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&sent).Encode(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, u.String(), &sent)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if b.tokenFile != "" && strings.HasPrefix(u.Path, "/api/") { // what is published takes none
		token, err := readToken(b.tokenFile)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	response, err := b.http.Do(request)
	if err != nil {
		return fmt.Errorf("asking the broker: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if code := response.StatusCode; code > 299 {
		err := fmt.Errorf("the broker answers %d to %s %s", code, method, u.Path)
		if code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusNotFound {
			return denied{err}
		}
		return err
	}
	if into == nil {
		return nil
	}
	text, err := io.ReadAll(http.MaxBytesReader(nil, response.Body, maxAnswer))
	if err != nil || json.Unmarshal(text, into) != nil {
		return fmt.Errorf("the broker's answer to %s %s is incomplete or not what was asked for", method, u.Path)
	}
	return nil
}
