package report

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
)

// Document is a report with its signature.
type Document struct {
	Report    json.RawMessage `json:"report"`
	Signature Signature       `json:"signature"`
}

// Signature is over the report as compact JSON.
type Signature struct {
	Algorithm string `json:"algorithm"` // "ed25519"
	Key       string `json:"key"`       // public, in base64
	Digest    string `json:"digest"`    // "sha256:" and that of what is signed, in hexadecimal
	Value     string `json:"value"`     // in base64
}

const algorithm = "ed25519"

// Signed is a report with what was signed of it.
type Signed struct {
	JSON     []byte // a Document
	Markdown []byte // the same for people, with a signature of its own
	Digest   string // of the report; both have it
}

// Sign makes the documents of a report.
func Sign(r Report, key ed25519.PrivateKey) (Signed, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return Signed{}, fmt.Errorf("encoding the report: %w", err)
	}
	sig := signature(text, key)
	document, err := json.Marshal(Document{text, sig})
	if err != nil {
		return Signed{}, fmt.Errorf("encoding the report: %w", err)
	}
	body := markdown(r)
	return Signed{JSON: document, Markdown: append(body, trailer(body, sig.Digest, key)...), Digest: sig.Digest}, nil
}

func signature(text []byte, key ed25519.PrivateKey) Signature {
	return Signature{Algorithm: algorithm, Key: keyText(key.Public().(ed25519.PublicKey)), Digest: digest(text),
		Value: base64.StdEncoding.EncodeToString(ed25519.Sign(key, text))}
}

func keyText(key ed25519.PublicKey) string { return base64.StdEncoding.EncodeToString(key) }

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// KeyOf is a public key as the broker gives it.
func KeyOf(key ed25519.PublicKey) client.ReportKey {
	id := sha256.Sum256(key)
	return client.ReportKey{Type: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(key), ID: hex.EncodeToString(id[:8]), Use: "sig", Algorithm: "EdDSA"}
}

// ParseKey reads a public key: in base64, or as the broker gives it.
func ParseKey(text string) (ed25519.PublicKey, error) {
	text = strings.TrimSpace(text)
	var given client.ReportKey
	if strings.HasPrefix(text, "{") {
		if err := json.Unmarshal([]byte(text), &given); err != nil || given.Curve != "Ed25519" {
			return nil, fmt.Errorf("%w: this is no key of incident reports", backends.ErrInvalid)
		}
		text = given.X
	}
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "="))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: this is no key of incident reports: it is 32 bytes in base64, or what /.well-known/keybroker/report-key gives", backends.ErrInvalid)
	}
	return key, nil
}

const (
	headline = "\n## Signature\n\n"
	fence    = "```"
)

// trailer is what a Markdown report ends with. Signed is all above it, and the digest of
// the report that it was made of.
func trailer(body []byte, reported string, key ed25519.PrivateKey) []byte {
	value := base64.StdEncoding.EncodeToString(ed25519.Sign(key, markdownSigned(body, reported)))
	return trailerOf(keyText(key.Public().(ed25519.PublicKey)), reported, value)
}

func trailerOf(key, reported, value string) []byte {
	return []byte(headline + "Everything above this heading is signed with the key below. What it says is worked out of the JSON report of\n" +
		"the digest below, which has the records that each claim follows from. `keybroker incident verify` checks either.\n\n" +
		fence + "\nalgorithm: " + algorithm + "\nkey: " + key + "\nreport: " + reported + "\nvalue: " + value + "\n" + fence + "\n")
}

func markdownSigned(body []byte, reported string) []byte {
	return fmt.Appendf(nil, "keybroker incident report as markdown\n%s\n%s", reported, body)
}

// Verified is what verifying a document has shown.
type Verified struct {
	Report *Report // nil: of Markdown, which has no records
	Key    ed25519.PublicKey
	Digest string // of the JSON report
}

// Verify verifies a JSON or Markdown report without the broker: that it is as it was
// signed, by key unless that is nil, that every claim follows from the records in it, and
// that the lines of the audit log are what that log was signed with. ErrInvalid says what
// does not hold first; ErrDenied: it is signed by another key.
func Verify(text []byte, key ed25519.PublicKey) (Verified, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		return verifyMarkdown(text, key)
	}
	var doc Document
	var compact bytes.Buffer
	err := json.Unmarshal(text, &doc)
	if err == nil {
		err = json.Compact(&compact, text)
	}
	if err != nil {
		return Verified{}, invalid("this is no report: %v", err)
	}
	signer, value, err := doc.Signature.open(key)
	if err != nil {
		return Verified{}, err
	}
	var body bytes.Buffer
	if err := json.Compact(&body, doc.Report); err != nil {
		return Verified{}, invalid("this is no report: %v", err)
	}
	out := Verified{Key: signer, Digest: digest(body.Bytes())}
	if !ed25519.Verify(signer, body.Bytes(), value) {
		return out, invalid("the signature does not hold: the report was changed")
	}
	again, err := encode(Document{body.Bytes(), doc.Signature})
	if err != nil || !bytes.Equal(again, compact.Bytes()) || doc.Signature.Digest != out.Digest {
		return out, invalid("there is more in the file, or other, than what is signed")
	}
	var r Report
	if err := json.Unmarshal(body.Bytes(), &r); err != nil {
		return out, invalid("this is no report: %v", err)
	}
	out.Report = &r
	if again, err := json.Marshal(r); err != nil || !bytes.Equal(again, body.Bytes()) || r.Format != Format {
		return out, invalid("the report is not as this keybroker writes them (%s): it may be of another version", Format)
	}
	return out, r.check()
}

// encode is json.Marshal of what has nothing to be escaped for HTML.
func encode(doc Document) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(doc)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", backends.ErrInvalid, fmt.Sprintf(format, args...))
}

func (s Signature) open(want ed25519.PublicKey) (ed25519.PublicKey, []byte, error) {
	key, err := base64.StdEncoding.Strict().DecodeString(s.Key)
	if err != nil || len(key) != ed25519.PublicKeySize || s.Algorithm != algorithm {
		return nil, nil, invalid("the signature is none: it has no key, or is made otherwise")
	}
	if want != nil && !bytes.Equal(want, key) {
		return nil, nil, fmt.Errorf("%w: it is signed by another key: %s", backends.ErrDenied, s.Key)
	}
	value, err := base64.StdEncoding.Strict().DecodeString(s.Value)
	if err != nil {
		return nil, nil, invalid("the signature is none")
	}
	return key, value, nil
}

// check works the claims out again, and names the first that is not what follows.
func (r *Report) check() error {
	lines, err := r.Journal.Verify()
	if err != nil {
		return fmt.Errorf("the lines of the audit log: %w", err)
	}
	want := derive(r, lines)
	for i, c := range r.Claims {
		if i >= len(want) {
			return invalid("claim %s does not follow from the records: %s", c.ID, c.Text)
		}
		if !same(c, want[i]) {
			return invalid("claim %s does not follow from its records: it says %q, and they say %q", want[i].ID, c.ID+": "+c.String(), want[i].String())
		}
	}
	if len(want) > len(r.Claims) {
		return invalid("claim %s is missing: the records say %q", want[len(r.Claims)].ID, want[len(r.Claims)].String())
	}
	return nil
}

func same(a, b Claim) bool {
	left, errA := json.Marshal(a)
	right, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(left, right)
}

// String says a claim in a line.
func (c Claim) String() string {
	text := c.Kind
	if c.Secret != "" {
		text += " " + c.Secret
	}
	if c.Version > 0 {
		text += fmt.Sprintf(" version %d", c.Version)
	}
	if !c.At.IsZero() {
		text += " at " + stamp(c.At)
	}
	return text + ": " + c.Text + " [" + strings.Join(c.Evidence, " ") + "]"
}

func verifyMarkdown(text []byte, key ed25519.PublicKey) (Verified, error) {
	at := bytes.LastIndex(text, []byte(headline))
	if at < 0 {
		return Verified{}, invalid("this is no report: it has no signature")
	}
	body, end := text[:at], text[at:]
	given := Signature{}
	for line := range strings.Lines(string(end)) {
		name, what, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "algorithm":
			given.Algorithm = what
		case "key":
			given.Key = what
		case "report":
			given.Digest = what
		case "value":
			given.Value = what
		}
	}
	signer, value, err := given.open(key)
	if err != nil {
		return Verified{}, err
	}
	out := Verified{Key: signer, Digest: given.Digest}
	if !bytes.Equal(end, trailerOf(given.Key, given.Digest, given.Value)) || !ed25519.Verify(signer, markdownSigned(body, given.Digest), value) {
		return out, invalid("the signature does not hold: the report was changed")
	}
	return out, nil
}

// Matches tells whether a Markdown report is what a JSON report is for people: what
// Verify has found of the one, and the text of the other.
func (v Verified) Matches(text []byte) bool {
	at := bytes.LastIndex(text, []byte(headline))
	return v.Report != nil && at >= 0 && bytes.Equal(text[:at], markdown(*v.Report))
}
