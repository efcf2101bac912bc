package github

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// value asks GitHub for the credential that an alert is about
// (https://docs.github.com/en/rest/secret-scanning/secret-scanning#get-a-secret-scanning-alert).
// Where it asks is made of the configuration, never of a URL in the message, which would
// get the token, too. ErrUnavailable if it does not get it.
func (r *Receiver) value(ctx context.Context, repository string, alert int64) (backends.SecretString, error) {
	resp, err := r.get(ctx, r.api.JoinPath("repos", repository, "secret-scanning", "alerts", fmt.Sprint(alert)))
	if err != nil {
		return "", fmt.Errorf("asking GitHub for alert %d of %s: %w", alert, repository, err)
	}
	var found struct {
		Secret backends.SecretString `json:"secret"`
	}
	if err := json.Unmarshal(resp.Body, &found); err != nil || strings.TrimSpace(found.Secret.Reveal()) == "" {
		return "", fmt.Errorf("%w: GitHub's answer for alert %d of %s has no credential in it", backends.ErrUnavailable, alert, repository)
	}
	return found.Secret, nil
}

// get asks GitHub, and again where that may help. Of redirects, which a repository has that
// was renamed, it follows one, within the API.
func (r *Receiver) get(ctx context.Context, at *url.URL) (outbound.Response, error) {
	gap, moved := firstGap, false
	for try := 1; ; {
		resp, err := r.client.Do(r.request(ctx, at))
		switch {
		case err == nil && resp.Status == http.StatusOK:
			return resp, nil
		case err == nil && !moved && (resp.Status == http.StatusMovedPermanently || resp.Status == http.StatusTemporaryRedirect):
			if moved = true; !r.follow(&at, resp.Header.Get("Location")) {
				return resp, fmt.Errorf("%w: it leads elsewhere than to the API", backends.ErrUnavailable)
			}
			continue
		case err == nil && resp.Status < http.StatusInternalServerError:
			return resp, refusal(resp.Status)
		case err == nil:
			err = fmt.Errorf("%w: the answer is %d", backends.ErrUnavailable, resp.Status)
		case !errors.Is(err, backends.ErrUnavailable):
			return resp, fmt.Errorf("%w: %v", backends.ErrUnavailable, err) // it was not let out, which is no fault of the sender
		}
		if try++; try > tries {
			return resp, err
		}
		select {
		case <-ctx.Done():
			return resp, err
		case <-time.After(gap):
			gap *= 4
		}
	}
}

func (r *Receiver) request(ctx context.Context, at *url.URL) *http.Request {
	req := (&http.Request{Method: http.MethodGet, URL: at, Host: at.Host, Header: http.Header{}}).WithContext(ctx)
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-Github-Api-Version", apiVersion)
	if r.token != "" && sameHost(at, r.api) {
		req.Header.Set("Authorization", "Bearer "+r.token.Reveal())
	}
	return req
}

// follow goes where an answer leads, if that is below the configured URL.
func (r *Receiver) follow(at **url.URL, location string) bool {
	to, err := (*at).Parse(location)
	if err != nil || to.User != nil || !sameHost(to, r.api) || !strings.HasPrefix(to.JoinPath().Path, r.api.JoinPath("/").Path) {
		return false
	}
	*at = to
	return true
}

// refusal says what an answer means that asking again does not change.
func refusal(status int) error {
	why := map[int]string{
		http.StatusUnauthorized:    "the token is not valid (any more)",
		http.StatusForbidden:       "the token may not read secret scanning alerts there, or has asked too often",
		http.StatusNotFound:        "there is no such alert, or the token may not know of it",
		http.StatusTooManyRequests: "the token has asked too often",
	}[status]
	if why == "" {
		return fmt.Errorf("%w: the answer is %d", backends.ErrUnavailable, status)
	}
	return fmt.Errorf("%w: the answer is %d: %s", backends.ErrUnavailable, status, why)
}
