package httpapi

import (
	"context"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/ratelimit"
	"github.com/keybroker/keybroker/policy"
)

// Endpoint is one method of one path: what is registered, what /openapi.json says of
// it, and what tests go by that try them all.
type Endpoint struct {
	Method  string
	Pattern string // "/api/v1/secrets/{name}/value"; {name} may contain slashes
	Summary string // one sentence for people
	Access  Access
	Class   ratelimit.Class // whose buckets a request is counted in
	MaxBody int64           // bytes of a body, if that is more than the listener takes elsewhere; of a path without names

	Query  []Parameter  // every one that it takes; any other is refused
	Body   reflect.Type // of the JSON object that it takes; nil: none
	Status int          // of success
	Answer reflect.Type // of the JSON that success is answered with; nil: no JSON
	Media  string       // of the answer, where it is no JSON, or not only that

	serve func(*server, http.ResponseWriter, *http.Request, authn.Principal) error
}

// Secret stands in Access.Path for the name of the secret that a request is about.
const Secret = "{secret}"

// Access is what an endpoint asks of its callers.
type Access struct {
	Public bool   // nobody is asked who they are
	Path   string // that policies are asked about: Secret, or below sys/; empty: whoever is known may
	AnyOf  []policy.Capability
	// Hides: to who may not see the secret, what is asked for is not there; in a list
	// it is left out, elsewhere it is a 404 and no 403.
	Hides   bool
	Unbound bool   // who is bound to a tenant is refused, whatever the policies say
	Also    string // what it takes beside that, and when
}

// Parameter is one of the query.
type Parameter struct {
	Name  string
	Type  string   // "string", "integer" or "boolean"
	Max   int      // of an integer, which is at least 1
	OneOf []string // all that a string can be; nil: anything
}

// Endpoints lists the whole surface.
func Endpoints() []Endpoint {
	return slices.Clone(table())
}

// anybody is the Access of what nobody is asked for.
var anybody = Access{Public: true}

// known is the Access of what everybody may who is somebody.
var known = Access{}

// on is the Access by capabilities on the secret that the path names: one of them.
func on(anyOf ...policy.Capability) Access { return Access{Path: Secret, AnyOf: anyOf} }

// seen is the Access of what may be known of a secret.
var seen = on(policy.List, policy.Read)

// node is the Access by a capability on a path below sys/.
func node(path string, c policy.Capability) Access {
	return Access{Path: "sys/" + path, AnyOf: []policy.Capability{c}}
}

const consumerPath = "sys/consumers/{name}"

// onConsumer is the Access by capabilities on the consumer that the path names, or of each
// in a list: one of them.
func onConsumer(anyOf ...policy.Capability) Access { return Access{Path: consumerPath, AnyOf: anyOf} }

// onQuarantine is the Access to put somebody in quarantine whom the body names, or to lift that.
var onQuarantine = Access{Path: "sys/quarantine/{kind}/{name}", AnyOf: []policy.Capability{policy.Update}}

func (a Access) hiding() Access                  { a.Hides = true; return a }
func (a Access) unbound() Access                 { a.Unbound = true; return a }
func (a Access) also(text string) Access         { a.Also = text; return a }
func (e Endpoint) as(c ratelimit.Class) Endpoint { e.Class = c; return e }

// maxPlanned is how large a whole configuration may be: some 10,000 secrets.
const maxPlanned = 16 << 20

func (e Endpoint) upTo(bytes int64) Endpoint { e.MaxBody = bytes; return e }

// get, post and remove make rows of the table. A path without a leading slash is
// below the root of the API.
func get(path string, a Access, summary string, e Endpoint) Endpoint {
	return row(http.MethodGet, path, a, summary, e)
}

func post(path string, a Access, summary string, e Endpoint) Endpoint {
	return row(http.MethodPost, path, a, summary, e)
}

func remove(path string, a Access, summary string, e Endpoint) Endpoint {
	return row(http.MethodDelete, path, a, summary, e)
}

func row(method, path string, a Access, summary string, e Endpoint) Endpoint {
	if !strings.HasPrefix(path, "/") {
		path = root + path
	}
	e.Method, e.Pattern, e.Access, e.Summary = method, path, a, summary
	return e
}

// pages serves a collection.
func pages[Q, T any](parse func(*params) Q, call func(Broker, context.Context, authn.Principal, Q) (client.List[T], error)) Endpoint {
	return Endpoint{
		Query: parametersOf(func(p *params) { parse(p) }), Status: http.StatusOK, Answer: reflect.TypeFor[client.List[T]](),
		serve: func(s *server, w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
			given, err := queryOf(r)
			if err != nil {
				return err
			}
			query := parse(given)
			if err := given.err(); err != nil {
				return err
			}
			items, err := call(s.Broker, r.Context(), caller, query)
			if err != nil {
				return err
			}
			if items.Items == nil {
				items.Items = []T{} // [] for programs, not null
			}
			return send(w, http.StatusOK, items)
		}}
}

// shows serves what the path names by key and nothing else is said about.
func shows[T any](key string, call func(Broker, context.Context, authn.Principal, string) (T, error)) Endpoint {
	return Endpoint{
		Status: http.StatusOK, Answer: reflect.TypeFor[T](),
		serve: func(s *server, w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
			if err := bare(r, &struct{}{}); err != nil {
				return err
			}
			answer, err := call(s.Broker, r.Context(), caller, r.PathValue(key))
			if err != nil {
				return err
			}
			return send(w, http.StatusOK, answer)
		}}
}

// tells serves what there is one of.
func tells[T any](call func(Broker, context.Context, authn.Principal) (T, error)) Endpoint {
	return shows("", func(b Broker, ctx context.Context, p authn.Principal, _ string) (T, error) { return call(b, ctx, p) })
}

// takes serves a request about what the path names by key.
func takes[B, T any](status int, key string, call func(Broker, context.Context, authn.Principal, string, B) (T, error)) Endpoint {
	return Endpoint{
		Status: status, Body: reflect.TypeFor[B](), Answer: reflect.TypeFor[T](),
		serve: func(s *server, w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
			var body B
			if err := bare(r, &body); err != nil {
				return err
			}
			answer, err := call(s.Broker, r.Context(), caller, r.PathValue(key), body)
			if err != nil {
				return err
			}
			return send(w, status, answer)
		}}
}

// does serves a request about everything, or for something new.
func does[B, T any](status int, call func(Broker, context.Context, authn.Principal, B) (T, error)) Endpoint {
	return takes(status, "", func(b Broker, ctx context.Context, p authn.Principal, _ string, body B) (T, error) {
		return call(b, ctx, p, body)
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

// register makes the routes of the table: those below a secret's name are told apart
// by what follows it, all others by the mux.
func (s *server) register(rows []Endpoint) {
	const below = root + "secrets/{name}"
	paths, subs := map[string]endpoints{}, map[string]endpoints{}
	for _, e := range rows {
		of, at := paths, e.Pattern
		if sub, ok := strings.CutPrefix(e.Pattern, below); ok {
			of, at = subs, strings.TrimPrefix(sub, "/")
		}
		if of[at] == nil {
			of[at] = endpoints{}
		}
		of[at][e.Method] = s.endpoint(e)
		if e.MaxBody > 0 {
			s.larger[e.Pattern] = e.MaxBody
		}
	}
	for pattern, e := range paths {
		s.mux.Handle(pattern, s.methods(e))
	}
	s.mux.Handle(root+"secrets/{path...}", s.secrets(subs))
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.stray(w, r, errNoRoute) })
}

// endpoint is how every row is served: counted, authenticated, counted again, and with
// the whole of its request.
func (s *server) endpoint(e Endpoint) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		counted := s.fromAddress(e.Class, r)
		if err := admit(w.Header(), counted...); err != nil {
			return err
		}
		var caller authn.Principal
		if !e.Access.Public {
			var err error
			if caller, err = s.authenticate(w, r); err != nil {
				return s.unknown(w.Header(), e.Class, r, err)
			}
			if err := admit(w.Header(), append(counted, s.ofCaller(e.Class, caller)...)...); err != nil {
				return err
			}
			if caller, err = s.received(r, caller); err != nil {
				return err
			}
		}
		return e.serve(s, w, r, caller)
	}
}

// stray answers what is asked of no endpoint, which is counted, too.
func (s *server) stray(w http.ResponseWriter, r *http.Request, err error) {
	if over := admit(w.Header(), s.fromAddress(ratelimit.Ordinary, r)...); over != nil {
		err = over
	}
	s.fail(w, r, err)
}
