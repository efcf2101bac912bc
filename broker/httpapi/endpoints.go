package httpapi

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// send answers with JSON.
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

// valueOf serves a secret's value.
func valueOf() Endpoint {
	return Endpoint{
		Query: parametersOf(func(p *params) { versionOf(p) }), Status: http.StatusOK, Answer: reflect.TypeFor[client.Value](),
		serve: (*server).value,
	}
}

func versionOf(p *params) int { return p.number("version", math.MaxInt32) }

// value answers a secret's value, or 304 if the caller has this answer. A version
// asked for by its number has no tag: what the tag is made of is not about it.
func (s *server) value(w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
	given, err := queryOf(r)
	if err != nil {
		return err
	}
	version := versionOf(given)
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

// checksKeys serves who was shown a key that the broker issued.
func checksKeys() Endpoint {
	return Endpoint{Body: reflect.TypeFor[client.KeyCheckRequest](), Status: http.StatusOK, Answer: reflect.TypeFor[client.KeyCheck](), serve: (*server).checkKey}
}

// checkKey tells a service whether a key that the broker issued works. It needs
// no token: whoever holds a key may know whether it works.
func (s *server) checkKey(w http.ResponseWriter, r *http.Request, _ authn.Principal) error {
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

// healthy serves who watches the process.
func healthy() Endpoint {
	return Endpoint{
		Status: http.StatusOK, Answer: reflect.TypeFor[client.Health](),
		serve: func(_ *server, w http.ResponseWriter, _ *http.Request, _ authn.Principal) error {
			return send(w, http.StatusOK, client.Health{Status: "ok"})
		}}
}

// ready serves who decides whether the node gets requests.
func ready() Endpoint {
	return Endpoint{
		Status: http.StatusOK, Answer: reflect.TypeFor[client.Readiness](),
		serve: func(s *server, w http.ResponseWriter, r *http.Request, _ authn.Principal) error {
			answer := client.Readiness{Problems: s.Ready(r.Context())}
			answer.Ready = len(answer.Problems) == 0
			if s.Notices != nil {
				answer.Notices = s.Notices()
			}
			if answer.Ready {
				answer.Problems = []string{}
				return send(w, http.StatusOK, answer)
			}
			return send(w, http.StatusServiceUnavailable, answer)
		}}
}

// measures serves the metrics of the node.
func measures() Endpoint {
	return Endpoint{
		Status: http.StatusOK, Media: "text/plain",
		serve: func(s *server, w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
			if err := s.Broker.ReadMetrics(r.Context(), caller); err != nil {
				return err
			}
			s.Metrics.ServeHTTP(w, r)
			return nil
		}}
}
