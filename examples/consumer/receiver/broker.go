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
	"time"

	"github.com/keybroker/keybroker/backends"
)

const callTimeout = 10 * time.Second

// broker is the HTTP API of the broker.
type broker struct {
	url   *url.URL
	token backends.SecretString
	http  http.Client
}

func newBroker(address string, token backends.SecretString) (*broker, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, errors.New("the broker's URL is not https://host[:port]")
	}
	host := u.Hostname()
	loopback := host == "localhost" || net.ParseIP(host).IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return nil, errors.New("the broker's URL is not https, as it must be except on this machine: its public keys and our token go over it")
	}
	b := &broker{url: u, token: token}
	b.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the token goes nowhere else
	return b, nil
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
	if b.token != "" {
		request.Header.Set("Authorization", "Bearer "+b.token.Reveal())
	}
	response, err := b.http.Do(request)
	if err != nil {
		return fmt.Errorf("asking the broker: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode > 299 {
		return fmt.Errorf("the broker answers %s to %s %s", response.Status, method, u.Path)
	}
	if into == nil {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, 16*maxBody))
	if err != nil || json.Unmarshal(text, into) != nil {
		return fmt.Errorf("the broker's answer to %s %s is incomplete or not what was asked for", method, u.Path)
	}
	return nil
}
