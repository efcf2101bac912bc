package httpapi

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/keybroker/keybroker/rotation/httpcall"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Config is the block `issuer "http" NAME`.
type Config struct {
	BaseURL string          `hcl:"base_url"`
	Auth    []httpcall.Auth `hcl:"auth,block"`
	Create  Create          `hcl:"create,block"`
	Find    *Find           `hcl:"find,block"`
	Revoke  Revoke          `hcl:"revoke,block"`
	Check   *Check          `hcl:"check,block"`

	MaxLive             int            `hcl:"max_live,optional"`          // 0: no limit known
	ShowOnce            bool           `hcl:"show_once,optional"`         // the value is in the answer to create only
	RevocationBudget    *time.Duration `hcl:"revocation_budget,optional"` // default 30m
	AllowPrivateNetwork bool           `hcl:"allow_private_network,optional"`
	CAFile              string         `hcl:"ca_file,optional"`
	Timeout             *time.Duration `hcl:"timeout,optional"` // of one request, default 30s

	BaseURLRange hcl.Range `hcl:"base_url,attr_value_range"`
	MaxLiveRange hcl.Range `hcl:"max_live,attr_value_range"`
	BudgetRange  hcl.Range `hcl:"revocation_budget,attr_value_range"`
	CAFileRange  hcl.Range `hcl:"ca_file,attr_value_range"`
	TimeoutRange hcl.Range `hcl:"timeout,attr_value_range"`
}

// Create mints a credential.
type Create struct {
	Method   string         `hcl:"method,optional"` // default POST
	Path     *hcl.Attribute `hcl:"path"`
	Headers  *hcl.Attribute `hcl:"headers,optional"`
	Body     *hcl.Attribute `hcl:"body,optional"`
	Handle   *hcl.Attribute `hcl:"handle"`
	Fields   *hcl.Attribute `hcl:"fields"`
	Success  []int          `hcl:"success,optional"` // statuses, default 200 and 201
	DefRange hcl.Range      `hcl:",def_range"`

	// Paths to when the credential ends by itself, of which at most one is given: a
	// time, or the seconds that it lives. Default: it does not.
	NotAfter       string    `hcl:"not_after,optional"`
	ExpiresIn      string    `hcl:"expires_in,optional"`
	NotAfterRange  hcl.Range `hcl:"not_after,attr_value_range"`
	ExpiresInRange hcl.Range `hcl:"expires_in,attr_value_range"`
}

// Find looks credentials up by their tag: on all pages if a pages block says how they
// follow each other, else on the one that the API answers with; give the path a filter
// by tag then, or a large enough page.
type Find struct {
	Method   string          `hcl:"method,optional"` // default GET
	Path     *hcl.Attribute  `hcl:"path"`
	Headers  *hcl.Attribute  `hcl:"headers,optional"`
	Body     *hcl.Attribute  `hcl:"body,optional"`
	Items    string          `hcl:"items"`
	Tag      string          `hcl:"tag"`
	Handle   *hcl.Attribute  `hcl:"handle"`
	Success  []int           `hcl:"success,optional"` // default 200
	Pages    *httpcall.Pages `hcl:"pages,block"`
	DefRange hcl.Range       `hcl:",def_range"`

	ItemsRange hcl.Range `hcl:"items,attr_value_range"`
	TagRange   hcl.Range `hcl:"tag,attr_value_range"`
}

// Revoke turns a credential off. 404 and 410 count as success too.
type Revoke struct {
	Method   string         `hcl:"method,optional"` // default DELETE
	Path     *hcl.Attribute `hcl:"path"`
	Headers  *hcl.Attribute `hcl:"headers,optional"`
	Body     *hcl.Attribute `hcl:"body,optional"`
	Success  []int          `hcl:"success,optional"` // default 200, 202 and 204
	DefRange hcl.Range      `hcl:",def_range"`
}

// Check is a request without any effect that succeeds only where the others are allowed.
type Check struct {
	Method   string         `hcl:"method,optional"` // GET, the default, or HEAD
	Path     *hcl.Attribute `hcl:"path"`
	Headers  *hcl.Attribute `hcl:"headers,optional"`
	Success  []int          `hcl:"success,optional"` // default 200 and 204
	DefRange hcl.Range      `hcl:",def_range"`
}

const (
	// Public measurements of how long a revoked credential goes on working reach
	// 23 minutes.
	defaultBudget  = 30 * time.Minute
	defaultTimeout = 30 * time.Second
)

// New compiles a configuration and reports every mistake in it. The result is
// an issuer.Finder if and only if there is a find block.
func New(cfg Config) (issuer.Issuer, hcl.Diagnostics) {
	c := compiler{cfg: cfg, i: &Issuer{now: time.Now, traits: issuer.Traits{
		Kind: issuer.Mint, MaxLive: cfg.MaxLive, ShowOnce: cfg.ShowOnce,
	}}}
	c.settings()
	base, diags := httpcall.ParseBase(cfg.BaseURL, cfg.BaseURLRange, cfg.AllowPrivateNetwork)
	c.diags = append(c.diags, diags...)
	if base == nil {
		base = &url.URL{Scheme: "https", Host: "invalid"} // to find the other mistakes as well
	}
	c.base = base
	c.create()
	c.end()
	c.revoke()
	c.check()
	if cfg.Find == nil {
		return c.i, c.diags
	}
	return c.find(), c.diags
}

type compiler struct {
	cfg   Config
	base  *url.URL
	i     *Issuer
	diags hcl.Diagnostics

	created bool // the request of create has no mistake
	handled bool // the names in the handle are known
}

func (c *compiler) mistake(at hcl.Range, summary, detail string) {
	c.diags = append(c.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at})
}

func (c *compiler) settings() {
	var diags hcl.Diagnostics
	c.i.traits.RevocationBudget, diags = httpcall.PositiveOr(defaultBudget, c.cfg.RevocationBudget, c.cfg.BudgetRange)
	c.diags = append(c.diags, diags...)
	timeout, diags := httpcall.PositiveOr(defaultTimeout, c.cfg.Timeout, c.cfg.TimeoutRange)
	c.diags = append(c.diags, diags...)
	if c.cfg.MaxLive < 0 {
		c.mistake(c.cfg.MaxLiveRange, "Invalid limit", "max_live is the number of credentials that can be live at once; leave it out if there is no limit.")
	}
	// Calls are rare and nobody would close what is kept, so each has its own connection.
	client, err := outbound.New(outbound.Options{
		AllowPrivate: c.cfg.AllowPrivateNetwork, CAFile: c.cfg.CAFile, Timeout: timeout, FreshConnections: true,
	})
	if err != nil {
		c.mistake(c.cfg.CAFileRange, "Unusable ca_file", err.Error()+".")
	}
	c.i.client = client
	c.i.auth, diags = httpcall.CompileAuth(c.cfg.Auth, httpcall.AuthOptions{Client: client, AllowPlain: c.cfg.AllowPrivateNetwork})
	c.diags = append(c.diags, diags...)
}

// request compiles and tells whether there was no mistake in it.
func (c *compiler) request(spec httpcall.Spec, scope httpcall.Scope) (*httpcall.Request, bool) {
	spec.Base = c.base
	r, diags := httpcall.Compile(spec, scope)
	c.diags = append(c.diags, diags...)
	return r, !diags.HasErrors()
}

func (c *compiler) create() {
	b := c.cfg.Create
	c.i.create = operation{name: "creating a credential", success: orDefault(b.Success, 200, 201)}
	c.i.create.request, c.created = c.request(httpcall.Spec{
		Method: b.Method, Default: "POST", URL: b.Path, Headers: b.Headers, Body: b.Body, At: b.DefRange,
	}, httpcall.Scope{"secret": httpcall.SecretVersionType, "rotation": httpcall.RotationType})
	var diags hcl.Diagnostics
	c.i.handle, diags = httpcall.CompilePaths(b.Handle)
	c.diags = append(c.diags, diags...)
	c.handled = !diags.HasErrors()
	c.i.fields, diags = httpcall.CompilePaths(b.Fields)
	c.i.traits.Handle = slices.Sorted(maps.Keys(c.i.handle))
	c.i.traits.Fields = slices.Sorted(maps.Keys(c.i.fields))
	c.diags = append(c.diags, diags...)
	for h, path := range c.i.handle {
		for f, field := range c.i.fields {
			if path.String() == field.String() && path.String() != "" {
				c.mistake(b.Handle.Expr.Range(), "Secret in the handle",
					fmt.Sprintf("handle.%s is the same as the field %s, but handles are stored and shown openly.", h, f))
			}
		}
	}
}

func (c *compiler) end() {
	b := c.cfg.Create
	text, at, life := b.NotAfter, b.NotAfterRange, false
	switch {
	case b.NotAfter != "" && b.ExpiresIn != "":
		c.mistake(b.ExpiresInRange, "Two ends", "The answer says when a credential ends at not_after, or how long it lives at expires_in: leave one out.")
		return
	case b.ExpiresIn != "":
		text, at, life = b.ExpiresIn, b.ExpiresInRange, true
	case b.NotAfter == "":
		return
	}
	path, diags := httpcall.CompilePath(text, at)
	c.diags = append(c.diags, diags...)
	c.i.ends = &end{path: path, life: life}
}

func (c *compiler) revoke() {
	b := c.cfg.Revoke
	c.i.revoke = operation{name: "revoking a credential", success: orDefault(b.Success, 200, 202, 204), repeatable: true}
	handle := cty.DynamicPseudoType
	if c.handled {
		handle = httpcall.HandleType(slices.Sorted(maps.Keys(c.i.handle)))
	}
	var good bool
	c.i.revoke.request, good = c.request(httpcall.Spec{
		Method: b.Method, Default: "DELETE", URL: b.Path, Headers: b.Headers, Body: b.Body, At: b.DefRange,
	}, httpcall.Scope{"secret": httpcall.SecretType, "handle": handle})
	if good && !c.i.revoke.request.Uses("handle") {
		c.mistake(b.DefRange, "Revocation without a handle", "revoke does not use handle, so it cannot tell which credential it turns off.")
	}
}

func (c *compiler) check() {
	b := c.cfg.Check
	if b == nil {
		return
	}
	if b.Method != "" && b.Method != "GET" && b.Method != "HEAD" {
		c.mistake(b.DefRange, "Check with an effect", "check is sent whenever somebody asks, so its method is GET or HEAD.")
	}
	c.i.check = operation{name: "checking", success: orDefault(b.Success, 200, 204), repeatable: true}
	c.i.check.request, _ = c.request(httpcall.Spec{
		Method: b.Method, Default: "GET", URL: b.Path, Headers: b.Headers, At: b.DefRange,
	}, httpcall.Scope{"secret": httpcall.SecretType})
	c.i.others = append(c.i.others, c.i.check.request)
}

func (c *compiler) find() *FindingIssuer {
	b := c.cfg.Find
	f := &FindingIssuer{Issuer: c.i, find: operation{name: "finding a credential", success: orDefault(b.Success, 200), repeatable: true}}
	f.find.request, _ = c.request(httpcall.Spec{
		Method: b.Method, Default: "GET", URL: b.Path, Headers: b.Headers, Body: b.Body, At: b.DefRange,
	}, httpcall.Scope{"secret": httpcall.SecretType, "rotation": httpcall.TagType})
	c.i.others = append(c.i.others, f.find.request)
	var diags hcl.Diagnostics
	f.pages, diags = httpcall.CompilePages(b.Pages, c.base)
	c.diags = append(c.diags, diags...)
	if b.Pages != nil && b.Method != "" && b.Method != "GET" {
		c.mistake(b.DefRange, "Pages of a request with a body", "Pages follow each other by their URLs, so find must be a GET.")
	}
	f.items, diags = httpcall.CompilePath(b.Items, b.ItemsRange)
	c.diags = append(c.diags, diags...)
	if !diags.HasErrors() && !f.items.Single() {
		c.mistake(b.ItemsRange, "Invalid JSON path", `items leads to the one list in the answer, as in "$.data", without wildcards or filters.`)
	}
	f.tag, diags = httpcall.CompilePath(b.Tag, b.TagRange)
	c.diags = append(c.diags, diags...)
	f.handle, diags = httpcall.CompilePaths(b.Handle)
	c.diags = append(c.diags, diags...)
	made, found := slices.Sorted(maps.Keys(c.i.handle)), slices.Sorted(maps.Keys(f.handle))
	if c.handled && !diags.HasErrors() && !slices.Equal(made, found) {
		c.mistake(b.Handle.Expr.Range(), "Different handles",
			fmt.Sprintf("create gives the handle %s, so find must give the same names.", strings.Join(made, ", ")))
	}
	if c.created && !c.i.create.request.Uses("rotation", "tag") {
		c.mistake(b.DefRange, "Nothing to find", "create does not use rotation.tag, so nothing it makes could be found by it.")
	}
	return f
}

func orDefault(given []int, byDefault ...int) []int {
	if len(given) == 0 {
		return byDefault
	}
	return given
}
