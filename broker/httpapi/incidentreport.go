package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/report"
)

// Reports makes the reports of incidents.
type Reports interface {
	// IncidentReport makes the signed report of an incident, cut to what p sees.
	IncidentReport(ctx context.Context, p authn.Principal, id string) (report.Signed, error)
	// ReportKey is what reports are verified with.
	ReportKey() client.ReportKey
}

const (
	wellKnownReportKey = "/.well-known/keybroker/report-key"
	reportWithin       = 5 * time.Minute // for making and reading one
	reportPart         = 256 << 10       // bytes that are written at a time
	reportJSON         = "json"
	reportMarkdown     = "markdown"
	reportBoth         = "both"
	markdownType       = "text/markdown; charset=utf-8"
)

// reportFormat is the parameter format.
func reportFormat(p *params) string { return p.oneOf("format", reportJSON, reportMarkdown, reportBoth) }

// reportsIncident serves the report of an incident.
func reportsIncident() Endpoint {
	return Endpoint{
		Query: parametersOf(func(p *params) { reportFormat(p) }), Status: http.StatusOK, Answer: reflect.TypeFor[map[string]any](), Media: markdownType,
		serve: (*server).incidentReport,
	}
}

func (s *server) incidentReport(w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
	given, err := queryOf(r)
	if err != nil {
		return err
	}
	format := reportFormat(given)
	if err := given.err(); err != nil {
		return err
	}
	if format == "" && strings.HasPrefix(r.Header.Get("Accept"), "text/markdown") {
		format = reportMarkdown
	}
	until := s.now().Add(reportWithin)
	ctx, cancel := context.WithDeadline(r.Context(), until)
	defer cancel()
	made, err := s.Broker.IncidentReport(ctx, caller, r.PathValue("id"))
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	body := made.JSON
	switch format {
	case reportMarkdown:
		h.Set("Content-Type", markdownType)
		body = made.Markdown
	case reportBoth:
		if body, err = json.Marshal(client.IncidentReports{JSON: string(made.JSON), Markdown: string(made.Markdown)}); err != nil {
			return fmt.Errorf("encoding answer: %w", err)
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	out := patient{w: w, conn: http.NewResponseController(w), now: s.now, until: until}
	_ = out.conn.SetWriteDeadline(until) // not every connection takes deadlines
	w.WriteHeader(http.StatusOK)
	for part := range slices.Chunk(body, reportPart) {
		if _, err := out.Write(part); err != nil { // a caller that is gone needs no answer
			break
		}
	}
	_ = out.conn.SetWriteDeadline(time.Time{})
	return nil
}

// givesReportKey serves who verifies reports.
func givesReportKey() Endpoint {
	return Endpoint{
		Status: http.StatusOK, Answer: reflect.TypeFor[client.ReportKey](),
		serve: func(s *server, w http.ResponseWriter, r *http.Request, _ authn.Principal) error {
			if err := bare(r, &struct{}{}); err != nil {
				return err
			}
			return send(w, http.StatusOK, s.Broker.ReportKey())
		}}
}
