package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// list makes the endpoint of a collection.
func list[Q, T any](s *server, parse func(*params) Q, call func(context.Context, authn.Principal, Q) (client.List[T], error)) endpoint {
	return s.authenticated(func(w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
		given, err := queryOf(r)
		if err != nil {
			return err
		}
		query := parse(given)
		if err := given.err(); err != nil {
			return err
		}
		items, err := call(r.Context(), caller, query)
		if err != nil {
			return err
		}
		if items.Items == nil {
			items.Items = []T{} // [] for programs, not null
		}
		return send(w, http.StatusOK, items)
	})
}

// one makes the endpoint of what the path names and nothing else is said about.
func one[T any](s *server, key string, call func(context.Context, authn.Principal, string) (T, error)) endpoint {
	return s.authenticated(func(w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
		if err := bare(r, &struct{}{}); err != nil {
			return err
		}
		answer, err := call(r.Context(), caller, r.PathValue(key))
		if err != nil {
			return err
		}
		return send(w, http.StatusOK, answer)
	})
}

// submit makes the endpoint of a request about what the path names.
func submit[B, T any](s *server, status int, key string, call func(context.Context, authn.Principal, string, B) (T, error)) endpoint {
	return s.authenticated(func(w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
		var body B
		if err := bare(r, &body); err != nil {
			return err
		}
		answer, err := call(r.Context(), caller, r.PathValue(key), body)
		if err != nil {
			return err
		}
		return send(w, status, answer)
	})
}

// create makes the endpoint of a request for something new.
func create[B, T any](s *server, call func(context.Context, authn.Principal, B) (T, error)) endpoint {
	return submit(s, http.StatusCreated, "", func(ctx context.Context, p authn.Principal, _ string, body B) (T, error) {
		return call(ctx, p, body)
	})
}

// bare reads the body of a request that takes no parameters.
func bare(r *http.Request, body any) error {
	given, err := queryOf(r)
	if err != nil {
		return err
	}
	if err := given.err(); err != nil {
		return err
	}
	return readBody(r, body)
}

func send(w http.ResponseWriter, status int, answer any) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller that is gone needs no answer
	return nil
}

// value answers a secret's value, or 304 if the caller has this answer. A version
// asked for by its number has no tag: what the tag is made of is not about it.
func (s *server) value(w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
	given, err := queryOf(r)
	if err != nil {
		return err
	}
	version := given.number("version", math.MaxInt32)
	if err := given.err(); err != nil {
		return err
	}
	value, err := s.Broker.Value(r.Context(), caller, r.PathValue("name"), version)
	if err != nil {
		return err
	}
	if version == 0 {
		tag := entityTag(value)
		w.Header().Set("ETag", tag)
		if matches(r.Header.Get("If-None-Match"), tag) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	return send(w, http.StatusOK, value)
}

// entityTag covers all that the answer says of the current value: the generation
// stands for its version and fields, then comes the number of the previous version,
// if that is in it, then a checksum of the times that move by themselves.
func entityTag(v client.Value) string {
	tag := fmt.Sprintf("g%d", v.Generation)
	var until time.Time
	if v.Previous != nil {
		tag += fmt.Sprintf("-p%d", v.Previous.Version)
		until = v.Previous.Until
	}
	if !until.IsZero() || !v.NextRotationAt.IsZero() {
		sum := fnv.New32a()
		fmt.Fprint(sum, until.UnixMicro(), v.NextRotationAt.UnixMicro())
		tag += fmt.Sprintf("-%08x", sum.Sum32())
	}
	return `"` + tag + `"`
}

// matches compares as RFC 9110, section 13.1.2 says, weakly.
func matches(header, tag string) bool {
	for candidate := range strings.SplitSeq(header, ",") {
		candidate = strings.TrimPrefix(strings.TrimSpace(candidate), "W/")
		if candidate == tag || candidate == "*" {
			return true
		}
	}
	return false
}

// checkKey tells a service whether a key that the broker issued works. It needs
// no token: whoever holds a key may know whether it works.
func (s *server) checkKey(w http.ResponseWriter, r *http.Request) error {
	var body client.KeyCheckRequest
	if err := bare(r, &body); err != nil {
		return err
	}
	key := body.Key.Reveal()
	if key == "" {
		key, _ = bearer(r)
	}
	if key == "" {
		s.problem(w, &failure{
			status: http.StatusUnauthorized,
			detail: "a key is needed",
			hint:   `send it as Authorization: Bearer <key>, or as {"key": …}`,
			header: errNoToken.header,
		}, map[string]any{"active": false})
		return nil
	}
	check, err := s.Broker.CheckKey(r.Context(), address(r), backends.SecretString(key))
	if err != nil {
		return err
	}
	if !check.Active {
		s.problem(w, &failure{
			status: http.StatusUnauthorized,
			detail: "the key is unknown or revoked",
			header: errBadToken.header,
		}, map[string]any{"active": false})
		return nil
	}
	return send(w, http.StatusOK, check)
}

func (s *server) healthz(w http.ResponseWriter, _ *http.Request) error {
	return send(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (s *server) readyz(w http.ResponseWriter, r *http.Request) error {
	answer := client.Readiness{Problems: s.Ready(r.Context())}
	answer.Ready = len(answer.Problems) == 0
	if answer.Ready {
		answer.Problems = []string{}
		return send(w, http.StatusOK, answer)
	}
	return send(w, http.StatusServiceUnavailable, answer)
}
