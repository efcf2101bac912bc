package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
)

// ReportKey is the ed25519 key that the reports of incidents are signed with, as a JWK
// (RFC 8037, section 2).
type ReportKey struct {
	Type      string `json:"kty"` // "OKP"
	Curve     string `json:"crv"` // "Ed25519"
	X         string `json:"x"`   // the 32 bytes of the key in base64url without padding
	ID        string `json:"kid"`
	Use       string `json:"use"` // "sig"
	Algorithm string `json:"alg"` // "EdDSA"
}

// IncidentReports is the report of an incident twice, of the same moment.
type IncidentReports struct {
	JSON     string `json:"json"` // as GET …/report gives it
	Markdown string `json:"markdown"`
}

// maxReport bounds the bytes of a report.
const maxReport = 1 << 30

// IncidentReport returns the report of an incident, in both of its forms.
func (c *Client) IncidentReport(ctx context.Context, id string) (out IncidentReports, err error) {
	resp, err := c.open(ctx, api("GET", "incidents", id, "report").with(url.Values{"format": {"both"}}))
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReport)).Decode(&out); err != nil {
		return out, fmt.Errorf("reading the report: %w", err)
	}
	return out, nil
}

// ReportKey returns what reports are verified with. It needs no token.
func (c *Client) ReportKey(ctx context.Context) (ReportKey, error) {
	return do[ReportKey](ctx, c, call{method: "GET", path: []string{".well-known", "keybroker", "report-key"}})
}
