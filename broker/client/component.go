package client

import "context"

// The states of an issuer or a probe, on the node that answers.
const (
	ComponentReady     = "ready"
	ComponentMissing   = "missing"    // it cannot be made yet: Detail says what it waits for
	ComponentLeftAlone = "left_alone" // it has failed so often in a row that nothing is asked of it for a while
)

// Issuer is a block of the configuration that mints and revokes.
type Issuer struct {
	Name      string `json:"name"`
	Type      string `json:"type"`
	Tenant    string `json:"tenant,omitempty"` // whose secrets it may serve; missing: those of all
	State     string `json:"state"`
	Detail    string `json:"detail,omitempty"` // why it is not ready
	Kind      string `json:"kind,omitempty"`   // "mint" or "set"
	Checkable bool   `json:"checkable"`        // it can try its permissions without an effect
}

// Probe is a block of the configuration that tries credentials.
type Probe struct {
	Name         string `json:"name"`
	Type         string `json:"type"`
	Tenant       string `json:"tenant,omitempty"` // whose secrets it may try; missing: those of all
	State        string `json:"state"`
	Detail       string `json:"detail,omitempty"`
	Endpoint     string `json:"endpoint,omitempty"`      // "GET https://api.example/v1/me"
	LockoutAfter int    `json:"lockout_after,omitempty"` // rejected tries that an account bears; missing: no limit known
}

// CheckIssuerRequest asks an issuer to try its permissions.
type CheckIssuerRequest struct {
	Secret string `json:"secret,omitempty"` // for this secret; empty: for those that it mints for
}

// IssuerCheck is what an issuer found when it tried its permissions, without any effect.
type IssuerCheck struct {
	Issuer   string          `json:"issuer"`
	Type     string          `json:"type"`
	OK       bool            `json:"ok"`       // no finding is a problem
	Checked  []string        `json:"checked"`  // TENANT:NAME of the secrets that it was checked for, at most 20
	Findings []IssuerFinding `json:"findings"` // what is the same for several secrets is there once
}

// IssuerFinding is one thing that was looked at.
type IssuerFinding struct {
	What    string   `json:"what"`              // "may create access keys for user ci"
	Problem string   `json:"problem,omitempty"` // missing: it is as it should be
	Mend    string   `json:"mend,omitempty"`
	Unknown bool     `json:"unknown,omitempty"` // it cannot be told without an effect; Problem says why
	Secrets []string `json:"secrets,omitempty"` // of which it was found, if not of all
}

// Bad tells whether somebody has to do something about it.
func (f IssuerFinding) Bad() bool { return f.Problem != "" && !f.Unknown }

// RunProbeRequest asks a probe to try one version of a secret.
type RunProbeRequest struct {
	Secret  string `json:"secret"`
	Version int    `json:"version,omitempty"` // 0: the current one
	Reason  string `json:"reason,omitempty"`
}

// ProbeRun is one try by hand. It proves nothing, and carries no value.
type ProbeRun struct {
	Probe     string `json:"probe"`
	Endpoint  string `json:"endpoint"`
	Secret    string `json:"secret"`
	Tenant    string `json:"tenant"`
	Version   int    `json:"version"`
	Verdict   string `json:"verdict"`
	Detail    string `json:"detail,omitempty"`
	Address   string `json:"address,omitempty"` // that was tried; missing: none was reached
	LatencyMS int64  `json:"latency_ms"`
}

// Issuers lists the issuers of the configuration.
func (c *Client) Issuers(ctx context.Context) (List[Issuer], error) {
	return do[List[Issuer]](ctx, c, api("GET", "issuers"))
}

// CheckIssuer has an issuer try its permissions, without any effect.
func (c *Client) CheckIssuer(ctx context.Context, name string, r CheckIssuerRequest) (IssuerCheck, error) {
	return do[IssuerCheck](ctx, c, api("POST", "issuers", name, "check").send(r))
}

// Probes lists the probes of the configuration.
func (c *Client) Probes(ctx context.Context) (List[Probe], error) {
	return do[List[Probe]](ctx, c, api("GET", "probes"))
}

// RunProbe tries one version of a secret now, once.
func (c *Client) RunProbe(ctx context.Context, name string, r RunProbeRequest) (ProbeRun, error) {
	return do[ProbeRun](ctx, c, api("POST", "probes", name, "run").send(r))
}

// Identify asks what a text is that was found somewhere.
func (c *Client) Identify(ctx context.Context, r IdentifyRequest) (Identified, error) {
	return do[Identified](ctx, c, api("POST", "identify").send(r))
}
