package httpprobe

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/httpcall"
	"github.com/keybroker/keybroker/rotation/outbound"
)

const defaultTimeout = 10 * time.Second

// Config is the block `probe "http" NAME`.
type Config struct {
	Method   string         `hcl:"method,optional"` // default GET
	URL      *hcl.Attribute `hcl:"url"`
	Headers  *hcl.Attribute `hcl:"headers,optional"`
	Body     *hcl.Attribute `hcl:"body,optional"`
	Accepted Answer         `hcl:"accepted,block"`
	Rejected Answer         `hcl:"rejected,block"`

	// Canary is a credential that must always work at the endpoint, e.g. of a test
	// account: the fields that the templates use.
	Canary map[string]backends.SecretString `hcl:"canary,optional"`

	LockoutAfter        int            `hcl:"lockout_after,optional"` // rejected tries in a row, 0: no limit known
	AllowPrivateNetwork bool           `hcl:"allow_private_network,optional"`
	CAFile              string         `hcl:"ca_file,optional"`
	Timeout             *time.Duration `hcl:"timeout,optional"` // of one try, default 10s

	MethodRange  hcl.Range `hcl:"method,attr_value_range"`
	CanaryRange  hcl.Range `hcl:"canary,attr_value_range"`
	LockoutRange hcl.Range `hcl:"lockout_after,attr_value_range"`
	CAFileRange  hcl.Range `hcl:"ca_file,attr_value_range"`
	TimeoutRange hcl.Range `hcl:"timeout,attr_value_range"`
}

// Answer declares what an answer looks like that accepts, or rejects, a
// credential: one of the statuses and, if said, a value in the JSON body.
type Answer struct {
	Status []int `hcl:"status"`
	JSON   *JSON `hcl:"json,block"`

	StatusRange hcl.Range `hcl:"status,attr_value_range"`
	DefRange    hcl.Range `hcl:",def_range"`
}

// JSON is a value that must be found in the body: a text, number or truth value.
type JSON struct {
	Path      string         `hcl:"path"`
	Equals    *hcl.Attribute `hcl:"equals"`
	PathRange hcl.Range      `hcl:"path,attr_value_range"`
}

// New compiles a configuration and reports every mistake in it.
func New(cfg Config) (*Probe, hcl.Diagnostics) {
	p := &Probe{lockoutAfter: cfg.LockoutAfter}
	var diags, more hcl.Diagnostics
	p.request, diags = httpcall.Compile(httpcall.Spec{
		Method: cfg.Method, Default: "GET", URL: cfg.URL, Headers: cfg.Headers, Body: cfg.Body,
		At: cfg.MethodRange, AllowPlain: cfg.AllowPrivateNetwork,
	}, httpcall.Scope{"field": httpcall.FieldType, "secret": httpcall.SubjectType})
	if !diags.HasErrors() && !p.request.Uses("field") {
		diags = mistake(cfg.URL.Range, "Probe without a credential",
			`The request does not use field, so it would try nothing. Put the credential where the API wants it, as in headers = { Authorization = "Bearer ${field.key}" }.`)
	}
	if cfg.Canary != nil && !diags.HasErrors() {
		p.canary, more = compileCanary(cfg, p.request)
		diags = append(diags, more...)
	}
	if cfg.LockoutAfter < 0 {
		diags = append(diags, mistake(cfg.LockoutRange, "Invalid limit", "lockout_after is a number of tries; leave it out if there is no limit.")...)
	}
	p.accepted, more = compileAnswer(cfg.Accepted)
	diags = append(diags, more...)
	p.rejected, more = compileAnswer(cfg.Rejected)
	diags = append(diags, more...)
	diags = append(diags, checkOverlap(p.accepted, p.rejected, cfg.Rejected.StatusRange)...)
	timeout, more := httpcall.PositiveOr(defaultTimeout, cfg.Timeout, cfg.TimeoutRange)
	diags = append(diags, more...)
	client, err := outbound.New(outbound.Options{
		AllowPrivate: cfg.AllowPrivateNetwork, CAFile: cfg.CAFile, Timeout: timeout,
		FreshConnections: true, UserAgent: outbound.ProbeUserAgent,
	})
	if err != nil {
		diags = append(diags, mistake(cfg.CAFileRange, "Unusable ca_file", err.Error()+".")...)
	}
	p.client, p.timeout = client, timeout
	return p, diags
}

// compileCanary demands exactly the fields that the request uses, and that they
// can stand where it puts them.
func compileCanary(cfg Config, r *httpcall.Request) (backends.Value, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	used, whole := r.Attributes("field")
	for _, name := range used {
		if _, ok := cfg.Canary[name]; !ok {
			diags = append(diags, mistake(cfg.CanaryRange, "Incomplete canary",
				fmt.Sprintf(`The request uses field.%s, which the canary lacks. Write canary = { %s = file("…") }.`, name, strings.Join(used, ` = file("…"), `)))...)
		}
	}
	fields := map[string]string{}
	for name, text := range cfg.Canary {
		fields[name] = text.Reveal()
		if !whole && !slices.Contains(used, name) {
			diags = append(diags, mistake(cfg.CanaryRange, "Unused field in the canary",
				fmt.Sprintf("The request does not use field.%s; it uses field.%s.", name, strings.Join(used, ", field.")))...)
		}
	}
	canary := backends.NewValue(fields)
	switch {
	case diags.HasErrors():
	case canary.IsZero():
		diags = mistake(cfg.CanaryRange, "Empty canary", `A canary names the fields that the request uses, as in canary = { key = file("…") }. Leave it out if there is none.`)
	case !r.Uses("secret"): // else what is tried is known only with the secret
		if _, err := r.Build(context.Background(), httpcall.Values{Field: canary}); err != nil {
			diags = mistake(cfg.CanaryRange, "Unusable canary", fmt.Sprintf("No request can be made of it: %s.", err))
		}
	}
	return canary, diags
}

type answer struct {
	status []int
	path   *httpcall.Path
	equals cty.Value
}

func compileAnswer(a Answer) (answer, hcl.Diagnostics) {
	compiled := answer{status: a.Status}
	var diags hcl.Diagnostics
	if len(a.Status) == 0 {
		diags = mistake(a.DefRange, "No status", "At least one status must be listed.")
	}
	for _, s := range a.Status {
		// Such an answer tells about the server, not about the credential.
		if s < 200 || s >= 500 || s == http.StatusTooManyRequests || s == http.StatusRequestTimeout {
			diags = append(diags, mistake(a.StatusRange, "Status proves nothing",
				fmt.Sprintf("%d cannot tell whether a credential works: only statuses from 200 to 499 other than 408 and 429 can.", s))...)
		}
	}
	if a.JSON == nil {
		return compiled, diags
	}
	path, more := httpcall.CompilePath(a.JSON.Path, a.JSON.PathRange)
	diags = append(diags, more...)
	compiled.path = &path
	if a.JSON.Equals == nil {
		return compiled, append(diags, mistake(hcl.Range{}, "Missing value", "equals is a text, a number, true or false.")...)
	}
	equals, more := a.JSON.Equals.Expr.Value(nil)
	if diags = append(diags, more...); more.HasErrors() {
		return compiled, diags
	}
	if equals.IsNull() || !equals.Type().IsPrimitiveType() {
		diags = append(diags, mistake(a.JSON.Equals.Expr.Range(), "Invalid value", "equals is a text, a number, true or false.")...)
	}
	compiled.equals = equals
	return compiled, diags
}

// checkOverlap refuses declarations that one answer would always meet both of:
// such a probe could never tell.
func checkOverlap(accepted, rejected answer, at hcl.Range) hcl.Diagnostics {
	for _, s := range rejected.status {
		if slices.Contains(accepted.status, s) && !distinct(accepted, rejected) {
			return mistake(at, "Accepted and rejected overlap",
				fmt.Sprintf("Status %d is declared as accepted and as rejected. If the body tells which, say so in both with json { path = \"$.ok\", equals = … } blocks that differ.", s))
		}
	}
	return nil
}

func distinct(a, b answer) bool {
	if a.path == nil || b.path == nil {
		return false
	}
	if a.equals == cty.NilVal || b.equals == cty.NilVal {
		return true // as far as can be told: one was reported
	}
	return a.path.String() != b.path.String() || !a.equals.RawEquals(b.equals)
}

func mistake(at hcl.Range, summary, detail string) hcl.Diagnostics {
	return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at}}
}
