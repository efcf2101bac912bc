package httpapi_test

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/invopop/jsonschema"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/httpapi"
)

var update = flag.Bool("update", false, "write comments.json anew from the comments of broker/client")

// What /openapi.json says of types and fields is what package client says of them.
func TestCommentsAreThoseOfTheClient(t *testing.T) {
	var r jsonschema.Reflector
	if err := r.AddGoComments("github.com/keybroker/keybroker/broker/httpapi", "../client"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for name, text := range r.CommentMap {
		want[name] = strings.Join(strings.Fields(text), " ")
	}
	if *update {
		b, err := json.MarshalIndent(want, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("comments.json", append(b, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile("comments.json")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Error("the comments of broker/client have changed: go test ./broker/httpapi -run Comments -update")
	}
}

func document(t *testing.T) *openapi3.T {
	t.Helper()
	a := start(t, newMemory(), nil).ask(t, "GET", "/openapi.json", "", "")
	if a.status != 200 || a.header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	d, err := openapi3.NewLoader().LoadFromData([]byte(a.body))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOpenAPIIsValid(t *testing.T) {
	d := document(t)
	if !strings.HasPrefix(d.OpenAPI, "3.1") {
		t.Errorf("version %s", d.OpenAPI)
	}
	if err := d.Validate(t.Context(), openapi3.EnableExamplesValidation()); err != nil {
		t.Error(err)
	}
}

// TestOpenAPIShowsBodies: an example of each, which the API takes.
func TestOpenAPIShowsBodies(t *testing.T) {
	n := start(t, newMemory(), nil)
	d := document(t)
	path := strings.NewReplacer("{name}", "payments%2Fstripe", "{id}", "r1", "{trigger}", "ci", "{method}", "corp")
	for _, e := range httpapi.Endpoints() {
		if e.Body == nil {
			continue
		}
		example := d.Paths.Value(e.Pattern).GetOperation(e.Method).RequestBody.Value.Content["application/json"].Example
		if example == nil {
			t.Errorf("%s %s: there is no example of %s", e.Method, e.Pattern, e.Body)
			continue
		}
		body, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		if a := n.ask(t, e.Method, path.Replace(e.Pattern), goodToken, string(body)); a.status == 400 || a.status == 415 {
			t.Errorf("%s %s does not take its example: %d %s", e.Method, e.Pattern, a.status, a.body)
		}
	}
}

// TestOpenAPIDescribesParametersWhereTheyAre: the same name means other things elsewhere.
func TestOpenAPIDescribesParametersWhereTheyAre(t *testing.T) {
	d := document(t)
	of := func(path, name string) *openapi3.Parameter {
		return d.Paths.Value(path).Get.Parameters.GetByInAndName("query", name)
	}
	if a, b := of("/api/v1/alerts", "all").Description, of("/api/v1/drift", "all").Description; a == b || !strings.Contains(a, "over") {
		t.Errorf("all: %q, %q", a, b)
	}
	if kinds := of("/api/v1/alerts", "kind").Schema.Value.Enum; len(kinds) != len(client.AlertKinds) {
		t.Errorf("kinds: %v", kinds)
	}
	login := d.Paths.Value("/api/v1/auth/{method}/login").Post.Responses
	for _, status := range []int{400, 401, 429, 503} {
		if login.Status(status) == nil {
			t.Errorf("a login is not described to answer %d", status)
		}
	}
}

func TestOpenAPIDescribesEveryEndpoint(t *testing.T) {
	d := document(t)
	ids := map[string]bool{}
	described := 0
	for _, e := range httpapi.Endpoints() {
		name := e.Method + " " + e.Pattern
		item := d.Paths.Value(e.Pattern)
		if item == nil || item.GetOperation(e.Method) == nil {
			t.Errorf("%s is not described", name)
			continue
		}
		op := item.GetOperation(e.Method)
		described++
		if ids[op.OperationID] {
			t.Errorf("%s: the id %s is taken", name, op.OperationID)
		}
		ids[op.OperationID] = true
		if len(op.Summary) < 10 || !strings.HasSuffix(op.Summary, ".") || op.Description == "" {
			t.Errorf("%s: summary %q, description %q", name, op.Summary, op.Description)
		}
		for _, p := range op.Parameters {
			if p.Value.Description == "" {
				t.Errorf("%s: the parameter %s is not described", name, p.Value.Name)
			}
		}
		if len(e.Query) != len(op.Parameters)-strings.Count(e.Pattern, "{") {
			t.Errorf("%s takes %v, and %d parameters are described", name, e.Query, len(op.Parameters))
		}
		if (e.Body != nil) != (op.RequestBody != nil) {
			t.Errorf("%s: body %v", name, e.Body)
		}
		if op.Responses.Status(e.Status) == nil || op.Responses.Default() == nil {
			t.Errorf("%s: its answers are not described", name)
		}
		if public := len(*op.Security) == 0; public != e.Access.Public {
			t.Errorf("%s: described as public: %t", name, public)
		}
	}
	operations := 0
	for _, item := range d.Paths.Map() {
		operations += len(item.Operations())
	}
	if operations != described {
		t.Errorf("%d operations are described, %d endpoints are there", operations, described)
	}
}

func TestOpenAPIDescribesTypes(t *testing.T) {
	d := document(t)
	for name, s := range d.Components.Schemas {
		if s.Value.Description == "" {
			t.Errorf("the type %s is not described", name)
		}
	}
	secret := d.Components.Schemas["Secret"].Value
	if secret.Properties["generation"].Value.Description != "only grows, also on rollback" {
		t.Errorf("generation: %q", secret.Properties["generation"].Value.Description)
	}
	if d.Components.Schemas["SecretList"] == nil {
		t.Error("there is no SecretList")
	}
}
