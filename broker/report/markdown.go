package report

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// maxRows is how many lines the timeline has, and the list of reads: the JSON report has all.
const maxRows = 2000

// page writes Markdown.
type page struct {
	bytes.Buffer
	*Report
	by map[string][]Claim // claims by their kind
}

// markdown renders a report for people.
func markdown(r Report) []byte {
	p := &page{Report: &r, by: map[string][]Claim{}}
	for _, c := range r.Claims {
		p.by[c.Kind] = append(p.by[c.Kind], c)
	}
	p.head()
	p.list("Summary", p.by[KindTotal], "")
	p.list("What is still open", p.by[KindOpen], "Nothing: everything is contained, proven dead and replaced, and everybody has the replacement.")
	p.timeline()
	p.versions()
	p.replacements()
	p.accesses()
	p.list("Last use, as the issuers know it", p.by[KindLastUse], "No issuer has said anything.")
	p.list("Who did what", p.by[KindAct], "The audit log of this node has nothing that people asked for.")
	p.list("Quarantine", p.by[KindQuarantined], "")
	p.list("Not turned off", p.by[KindSkipped], "")
	p.list("Notes", p.by[KindNote], "")
	p.list("Checklist", p.by[KindCheck], "")
	p.nodes()
	p.list("What this report cannot tell", p.by[KindLimit], "")
	p.evidence()
	return p.Bytes()
}

func (p *page) put(format string, args ...any) { fmt.Fprintf(p, format, args...) }

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05.000Z")
}

// plain is a text that is no Markdown, in a cell of a table as elsewhere.
var plain = strings.NewReplacer("\\", "\\\\", "|", "\\|", "\n", " ", "\r", " ", "`", "\\`", "*", "\\*", "_", "\\_", "[", "\\[", "]", "\\]", "<", "&lt;", ">", "&gt;", "&", "&amp;", "#", "\\#")

func (p *page) row(cells ...string) {
	for _, c := range cells {
		p.put("| %s ", plain.Replace(c))
	}
	p.put("|\n")
}

func (p *page) table(names ...string) {
	p.row(names...)
	p.put("%s|\n", strings.Repeat("|---", len(names)))
}

func (p *page) head() {
	i := p.Incident
	p.put("# Incident %s\n\n%s\n\n", i.ID, plain.Replace(i.Reason))
	p.table("", "")
	for _, f := range [][2]string{
		{"State", i.State}, {"Cause", said(i.Cause, i.Trigger)}, {"Tenant", i.Tenant}, {"Asked for", selected(i.Selector)}, {"Containment", i.Contain},
		{"Declared by", said(i.DeclaredBy, i.Identity)}, {"Approved by", i.ApprovedBy}, {"Leaked", stamp(i.LeakedAt)}, {"Detected", stamp(i.DetectedAt)},
		{"Declared", stamp(i.DeclaredAt)}, {"Approved", stamp(i.ApprovedAt)}, {"Closed", said(stamp(i.ClosedAt), i.Closing)},
		{"Evidence is held", map[bool]string{true: "yes", false: "no"}[i.Hold]},
		{"Report made", stamp(p.MadeAt) + " by node " + p.MadeBy + " for " + p.MadeFor},
	} {
		if strings.TrimSpace(f[1]) != "" {
			p.row(f[0], f[1])
		}
	}
	p.put("\nEvery statement has the number of a claim, such as C1; the JSON report has the records that it follows from.\n")
}

// selected says what a selector selects.
func selected(s client.Selector) string {
	var parts []string
	add := func(what, text string) {
		if text != "" {
			parts = append(parts, strings.TrimSpace(what+" "+text))
		}
	}
	add("", strings.Join(append(slices.Clone(s.Names), s.Patterns...), ", "))
	for _, name := range sortedKeys(s.Labels) {
		add("label", name+"="+s.Labels[name])
	}
	add("tenant", s.Tenant)
	add("backend", s.Backend)
	add("issuer", s.Issuer)
	add("consumer", s.Consumer)
	add("read by", s.ReadBy)
	add("read at", s.Address)
	add("since", stamp(s.Since))
	if s.Leaked {
		add("", "a value that leaked")
	}
	if s.All {
		add("", "every secret")
	}
	if len(s.Versions) > 0 {
		add("versions", strings.Trim(fmt.Sprint(s.Versions), "[]"))
	}
	return strings.Join(parts, "; ")
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// list lists claims; none: what is said instead, or nothing at all.
func (p *page) list(title string, claims []Claim, none string) {
	if len(claims) == 0 && none == "" {
		return
	}
	p.put("\n## %s\n\n", title)
	if len(claims) == 0 {
		p.put("%s\n", none)
		return
	}
	for i, c := range claims {
		if i == maxRows {
			p.put("- and %d more: see the JSON report\n", len(claims)-i)
			return
		}
		p.put("- %s%s (%s)\n", plain.Replace(lead(c)), plain.Replace(c.Text), c.ID)
	}
}

// lead is when, about what and by whom a claim is.
func lead(c Claim) string {
	var parts []string
	if !c.At.IsZero() {
		at := stamp(c.At)
		if !c.Until.IsZero() {
			at += " – " + stamp(c.Until)
		}
		parts = append(parts, at)
	}
	if c.Secret != "" {
		about := c.Secret
		if c.Version > 0 {
			about += fmt.Sprintf(" version %d", c.Version)
		}
		parts = append(parts, about)
	}
	if c.By != "" {
		parts = append(parts, c.By)
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ", ") + ": "
}

// timeline is everything that has a time, in its order, but for reads and what has a
// table of its own: of many secrets the lines of the incident alone.
func (p *page) timeline() {
	var all []Claim
	for _, c := range p.Claims {
		switch c.Kind {
		case KindExposure, KindTotal, KindOpen, KindLimit, KindRead, KindCompromised:
			continue
		}
		if !c.At.IsZero() {
			all = append(all, c)
		}
	}
	slices.SortStableFunc(all, func(a, b Claim) int { return a.At.Compare(b.At) })
	p.put("\n## Timeline\n\n")
	if len(all) > maxRows {
		p.put("There are %d entries. These are those of the incident itself; the tables below have those of each version.\n\n", len(all))
		all = slices.DeleteFunc(all, func(c Claim) bool { return c.Secret != "" && c.Kind != KindResurrected })
		all = all[:min(len(all), maxRows)]
	}
	p.table("When", "What", "About", "By", "Claim")
	for _, c := range all {
		about := c.Secret
		if c.Version > 0 {
			about += fmt.Sprintf(" version %d", c.Version)
		}
		p.row(stamp(c.At), c.Text, about, c.By, c.ID)
	}
}

// versions is what became of each version that is compromised.
func (p *page) versions() {
	type key struct {
		secret  string
		version int
	}
	claims := map[key]map[string]Claim{}
	var order []key
	for _, c := range p.Claims {
		k := key{c.Secret, c.Version}
		if c.Kind == KindCompromised && c.Version > 0 {
			claims[k] = map[string]Claim{}
			order = append(order, k)
		}
		if claims[k] != nil {
			if _, there := claims[k][c.Kind]; !there {
				claims[k][c.Kind] = c
			}
		}
	}
	p.put("\n## Compromised versions\n\n")
	if len(order) == 0 {
		p.put("None.\n")
		return
	}
	p.table("Secret", "Version", "Requested", "Acknowledged", "Contained", "Proven dead", "Exposure", "Claims")
	for _, k := range order {
		of := claims[k]
		var ids []string
		for _, kind := range []string{KindRequested, KindAcknowledged, KindContained, KindProven, KindExposure} {
			if c, ok := of[kind]; ok {
				ids = append(ids, c.ID)
			}
		}
		p.row(k.secret, fmt.Sprint(k.version), stamp(of[KindRequested].At), stamp(of[KindAcknowledged].At), cmp.Or(stamp(of[KindContained].At), "no"),
			cmp.Or(stamp(of[KindProven].At), "no"), exposureText(of[KindExposure], p.MadeAt), strings.Join(ids, " "))
	}
	p.list("What the proofs are about", p.by[KindProven], "Nothing is proven dead.")
}

func exposureText(c Claim, now time.Time) string {
	switch {
	case c.ID == "":
		return ""
	case strings.HasPrefix(c.Text, "it was not exposed"):
		return "none"
	case c.Until.IsZero():
		return fmt.Sprintf("since %s: %s so far", stamp(c.At), lasted(c.At, now))
	}
	return fmt.Sprintf("from %s: %s", stamp(c.At), lasted(c.At, c.Until))
}

// replacements is who has what came in the place.
func (p *page) replacements() {
	p.list("Replacements", p.by[KindReplaced], "Nothing is replaced.")
	p.list("Consumers that have the replacement", p.by[KindDelivered], "")
}

func (p *page) accesses() {
	p.put("\n## Who was given what is compromised\n\n")
	reads := p.by[KindRead]
	if len(reads) == 0 {
		p.put("The broker has given it to nobody, as far as it keeps that.\n")
		return
	}
	p.table("Secret", "Version", "First", "Last", "Who", "How", "Claim")
	for i, c := range reads {
		if i == maxRows {
			p.put("\nand %d more: see the JSON report\n", len(reads)-i)
			return
		}
		p.row(c.Secret, fmt.Sprint(c.Version), stamp(c.At), stamp(cmp.Or(c.Until, c.At)), c.By, c.Text, c.ID)
	}
}

// nodes is from where it was tried, and whose log tells of it.
func (p *page) nodes() {
	tries := map[string]string{}
	count := map[string]int{}
	for _, s := range p.Secrets {
		for _, v := range s.Versions {
			if v.Retirement == nil {
				continue
			}
			for _, l := range v.Retirement.Tries {
				tries[l.Node] = l.Node
				count[l.Node]++
			}
		}
	}
	p.put("\n## Nodes\n\n")
	for _, name := range sortedKeys(tries) {
		p.put("- %s has made %d of the tries that are in the report\n", plain.Replace(name), count[name])
	}
	lines := 0
	for _, b := range p.Journal.Blocks {
		lines += len(b.Lines)
	}
	p.put("- the audit log %s has %d lines about the incident between its records %d and %d; each is proven by a checkpoint that the log has signed\n",
		plain.Replace(p.Journal.Origin), lines, p.Journal.From, p.Journal.To)
	for _, l := range p.OtherLogs {
		p.put("- node %s has an audit log of its own, which is not in this report\n", plain.Replace(l.Node))
	}
}

// evidence is what the records of the claims are called, where there are few.
func (p *page) evidence() {
	if len(p.Claims) > maxRows {
		p.put("\n## Evidence\n\nThere are %d claims: the JSON report has the records of each.\n", len(p.Claims))
		return
	}
	p.put("\n## Evidence\n\n")
	p.table("Claim", "Records")
	for _, c := range p.Claims {
		p.row(c.ID, strings.Join(c.Evidence, " "))
	}
}
