package httpapi

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/ratelimit"
)

// describes serves the description of the API, which is the same for everybody.
func describes() Endpoint {
	return Endpoint{
		Status: http.StatusOK, Answer: reflect.TypeFor[map[string]any](),
		serve: func(s *server, w http.ResponseWriter, _ *http.Request, _ authn.Principal) error {
			document, err := s.describe()
			if err != nil {
				return err
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusOK)
			_, _ = w.Write(document) // a caller that is gone needs no answer
			return nil
		}}
}

// comments are what package client says of its types and their fields, by
// "package.Type" and "package.Type.Field"; a test keeps them up to date.
//
//go:embed comments.json
var comments []byte

// openAPI makes the document of the table (OpenAPI 3.1).
func openAPI() ([]byte, error) {
	d := describer{reflector: jsonschema.Reflector{Anonymous: true, AllowAdditionalProperties: true, Namer: typeName, Mapper: mapped, LookupComment: commentOnList}, schemas: jsonschema.Definitions{}}
	if err := json.Unmarshal(comments, &d.reflector.CommentMap); err != nil {
		return nil, fmt.Errorf("reading comments.json: %w", err)
	}
	paths := map[string]map[string]any{}
	for _, e := range table() {
		if paths[e.Pattern] == nil {
			paths[e.Pattern] = map[string]any{}
		}
		paths[e.Pattern][strings.ToLower(e.Method)] = d.operation(e)
	}
	problem := d.schema(reflect.TypeFor[client.Problem]())
	document, err := json.Marshal(object{
		"openapi": "3.1.0",
		"info": object{"title": "keybroker", "version": "1",
			"description": "The native API. A secret's name in a path is one percent-encoded segment: payments%2Fstripe. " +
				"A parameter or JSON field that the API does not know is refused. Every error is a problem document (RFC 9457)."},
		"paths": paths,
		"components": object{
			"schemas": d.schemas,
			"securitySchemes": object{
				"token":       object{"type": "http", "scheme": "bearer", "description": "A token, made by hand or by logging in."},
				"certificate": object{"type": "mutualTLS", "description": "A client certificate of an auth block of the type mtls; " + client.RoleHeader + " says which role is meant where several are bound."},
			},
			"responses": object{"Problem": object{"description": "What is wrong.", "content": object{client.ProblemType: object{"schema": problem}}}},
		},
	})
	// The reflector refers to where definitions are in a JSON Schema.
	return bytes.ReplaceAll(document, []byte(`"#/$defs/`), []byte(`"#/components/schemas/`)), err
}

// object is one of JSON.
type object = map[string]any

// describer collects the schemas of what is described.
type describer struct {
	reflector jsonschema.Reflector
	schemas   jsonschema.Definitions
}

// schema is that of a type, by reference where it has a name.
func (d *describer) schema(t reflect.Type) *jsonschema.Schema {
	s := d.reflector.ReflectFromType(t)
	for name, of := range s.Definitions {
		d.schemas[name] = of
	}
	s.Definitions, s.Version = nil, ""
	return s
}

// typeName names a type of package client: List[…client.Secret] is SecretList.
func typeName(t reflect.Type) string {
	of, item, generic := strings.Cut(t.Name(), "[")
	if !generic {
		return of
	}
	item = strings.TrimSuffix(item, "]")
	return item[strings.LastIndex(item, ".")+1:] + of
}

// commentOnList describes lists, whose Go type is one for all.
func commentOnList(t reflect.Type, field string) string {
	if field == "" && strings.HasPrefix(t.Name(), "List[") {
		return "A page of a list. next, if it is there, is the after of the page that follows."
	}
	return ""
}

// mapped are the schemas of types that say less in Go than in JSON.
func mapped(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[json.RawMessage]():
		return &jsonschema.Schema{Description: "any JSON"}
	case reflect.TypeFor[client.SecretText]():
		return &jsonschema.Schema{Type: "string", Format: "password"}
	}
	return nil
}

var inPath = regexp.MustCompile(`\{(\w+)\}`)

func (d *describer) operation(e Endpoint) object {
	op := object{"operationId": operationID(e), "summary": e.Summary, "description": e.Access.Describe(), "tags": []string{tag(e)}, "responses": d.responses(e)}
	parameters := []object{}
	for _, m := range inPath.FindAllStringSubmatch(e.Pattern, -1) {
		parameters = append(parameters, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}, "description": cmp.Or(pathParameters[e.Pattern+" "+m[1]], pathParameters[m[1]])})
	}
	for _, q := range e.Query {
		schema := object{"type": q.Type}
		if q.Max > 0 {
			schema["minimum"], schema["maximum"] = 1, q.Max
		}
		if q.OneOf != nil {
			schema["enum"] = q.OneOf
		}
		description := queryParameters[e.Pattern+"?"+q.Name]
		if description == "" {
			description = queryParameters[q.Name]
		}
		parameters = append(parameters, object{"name": q.Name, "in": "query", "schema": schema, "description": description})
	}
	if len(parameters) > 0 {
		op["parameters"] = parameters
	}
	if e.Body != nil {
		op["requestBody"] = object{"content": object{"application/json": object{"schema": d.schema(e.Body), "example": bodyExamples[e.Body]}}}
	}
	op["security"] = []object{{"token": []string{}}, {"certificate": []string{}}}
	if e.Access.Public {
		op["security"] = []object{}
	}
	return op
}

func (d *describer) responses(e Endpoint) object {
	success, content := object{"description": "Done."}, object{}
	if e.Answer != nil {
		content["application/json"] = object{"schema": d.schema(e.Answer)}
	}
	if e.Media != "" {
		content[e.Media] = object{"schema": object{"type": "string"}}
	}
	if len(content) > 0 {
		success["content"] = content
	}
	if e.Status == http.StatusAccepted {
		success["description"] = "Begun: what comes of it is seen later."
	}
	problem := object{"$ref": "#/components/responses/Problem"}
	out := object{strconv.Itoa(e.Status): success, "default": problem}
	if e.Body != nil || len(e.Query) > 0 {
		out["400"] = problem
	}
	if !e.Access.Public || e.Body != nil { // what a caller shows in a body may not be accepted
		out["401"] = problem
	}
	if inPath.MatchString(e.Pattern) && !e.Access.Public { // who may call what is public learns nothing of names
		out["404"] = problem
	}
	if len(e.Access.AnyOf) > 0 {
		out["403"] = problem
	}
	if e.Class != ratelimit.Unlimited {
		out["429"] = problem
	}
	if !e.Access.Public || e.Body != nil {
		out["503"] = problem
	}
	return out
}

// Describe says in words what a caller needs.
func (a Access) Describe() string {
	if a.Public {
		return "Needs no token."
	}
	if a.Path == "" {
		return "Needs a token or certificate that is accepted, and no capability."
	}
	names := make([]string, len(a.AnyOf))
	for i, c := range a.AnyOf {
		names[i] = string(c)
	}
	where := "the path " + a.Path
	if a.Path == Secret {
		where = "the secret that it is about"
	}
	text := "Needs " + strings.Join(names, " or ") + " on " + where + "."
	if a.Unbound {
		text += " Who is bound to a tenant is refused."
	}
	if a.Hides {
		text += " What may not be seen is not there."
	}
	if a.Also != "" {
		text += " Also: " + a.Also + "."
	}
	return text
}

// operationID is "GET secrets/{name}/value" → "getSecretsNameValue".
func operationID(e Endpoint) string {
	id := strings.ToLower(e.Method)
	for _, word := range regexp.MustCompile(`\w+`).FindAllString(strings.TrimPrefix(e.Pattern, root), -1) {
		id += strings.ToUpper(word[:1]) + word[1:]
	}
	return id
}

// tag groups operations by the first word of their path.
func tag(e Endpoint) string {
	if path, ok := strings.CutPrefix(e.Pattern, root); ok {
		first, _, _ := strings.Cut(path, "/")
		return first
	}
	return "node"
}

// What the parameters are, by name; of what is not the same everywhere, by path and name.
var (
	pathParameters = map[string]string{
		"name":    "The secret's name, percent-encoded as one segment: payments%2Fstripe. TENANT:NAME means that of one tenant.",
		"id":      "The id, as lists and other answers have it.",
		"trigger": "The name of the trigger's block in the configuration.",
		"method":  "The name of the auth block in the configuration.",

		wellKnownKeys + " consumer": "The name of the consumer's block in the configuration.",

		root + "consumers/{name} name":                "The name of the consumer's block in the configuration.",
		root + "consumers/{name}/test name":           "The name of the consumer's block in the configuration.",
		root + "consumers/{name}/enable name":         "The name of the consumer's block in the configuration.",
		root + "consumers/{name}/rotate-signing name": "The name of the consumer's block in the configuration.",
		root + "consumers/{name}/inbox name":          "The name of the consumer's block in the configuration.",
		root + "issuers/{name}/check name":            "The name of the issuer's block in the configuration.",
		root + "probes/{name}/run name":               "The name of the probe's block in the configuration.",
		root + "notifiers/{name}/test name":           "The name of the notifier's block in the configuration.",
	}
	queryParameters = map[string]string{
		"limit":    "How many items at most.",
		"instance": "Who collects, where the consumer has several instances: what it has acknowledged is not handed out to it again.",
		"wait":     "How long to wait for something, such as 30s, which it is if not given, up to 1m0s.",
		"after":    "The next of the page before: what follows it is answered.",
		"prefix":   "Only names that begin so.",
		"secret":   "Only of the secret of that name.",
		"state":    "Only in this state.",
		"kind":     "Only of this kind.",
		"live":     "Only what has not ended.",
		"backend":  "Only of this backend.",
		"all":      "Also what is in step.",

		root + "alerts?all":     "Also those that are over.",
		root + "events?outcome": "Only with this outcome.",
		"trigger":               "Only of this trigger.",

		"format":   "json, which it is unless text/markdown is asked for by Accept, markdown, or both in one JSON object.",
		"consumer": "Only to this consumer.",
		"event":    "Only of this event.",
		"actor":    "Only by this actor: an id, as records have it.",
		"action":   "Only this action, such as secret.read.",
		"path":     "Only on this policy path.",
		"outcome":  "Only with this outcome: ok, denied, failed; of steps also retry and others.",
		"request":  "Only of the request with this id.",
		"hash":     "Only records with this keyed hash of a sensitive string.",
		"tenant":   "Only of this tenant.",
		"since":    "Not before this time (RFC 3339).",
		"until":    "Only before this time (RFC 3339).",
		"version":  "The number of the version; without it the current one.",
	}
)
