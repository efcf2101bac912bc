package httpcall

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"golang.org/x/net/http/httpguts"

	"github.com/keybroker/keybroker/backends"
)

// signedType is `request` in the templates of auth "hmac": the request as it is sent.
// All of it is ASCII, so that no template alters it.
var signedType = cty.Object(map[string]cty.Type{
	"method": cty.String, "host": cty.String, // with the port, where the URL has one
	"target": cty.String, "path": cty.String, "query": cty.String, // escaped; target is path?query
	"body": cty.String, "body_digest": cty.String, // by the block's algorithm and encoding
	"timestamp": cty.String,
})

type signer struct {
	key             func() []byte
	newHash         func() hash.Hash
	encode          func([]byte) string
	sign            expression
	format          *expression
	header          string
	timestampHeader string
	timestamp       func(time.Time) string
}

var (
	hashes = map[string]func() hash.Hash{"sha256": sha256.New, "sha512": sha512.New}

	encodings = map[string]func([]byte) string{"hex": hex.EncodeToString, "base64": base64.StdEncoding.EncodeToString}

	keyDecodings = map[string]func(string) ([]byte, error){
		"text":   func(s string) ([]byte, error) { return []byte(s), nil },
		"base64": base64.StdEncoding.DecodeString,
		"hex":    hex.DecodeString,
	}

	timestamps = map[string]func(time.Time) string{
		"unix":    func(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) },
		"unix_ms": func(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) },
		"rfc3339": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"http":    func(t time.Time) string { return t.UTC().Format(http.TimeFormat) },
	}
)

func compileSignature(b Auth) (func(*http.Request, time.Time) error, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	choice := func(name, given string, choices ...string) string {
		chosen, more := oneOf(b, name, given, choices...)
		diags = append(diags, more...)
		return chosen
	}
	s := signer{
		newHash:         hashes[choice("algorithm", b.Algorithm, "sha256", "sha512")],
		encode:          encodings[choice("encoding", b.Encoding, "hex", "base64")],
		timestamp:       timestamps[choice("timestamp_format", b.TimestampFormat, "unix", "unix_ms", "rfc3339", "http")],
		header:          b.Header,
		timestampHeader: b.TimestampHeader,
	}
	written := choice("key_encoding", b.KeyEncoding, "text", "base64", "hex")
	key, err := keyDecodings[written](b.Key.Reveal())
	if err != nil || len(key) == 0 { // the error would quote it
		diags = append(diags, mistake(b.DefRange, "Invalid key", fmt.Sprintf("The key of auth \"hmac\" is not written in %s, as key_encoding says. Does its file end in an empty line?", written))...)
	}
	s.key = func() []byte { return key }
	scope := Scope{"request": signedType}
	var more hcl.Diagnostics
	s.sign, more = compile(b.Sign.Expr, scope)
	diags = append(diags, more...)
	told := b.TimestampHeader != ""
	if b.Format != nil {
		x, more := compile(b.Format.Expr, Scope{"request": signedType, "signature": cty.String})
		diags = append(diags, more...)
		if !more.HasErrors() && !x.refers("signature") {
			diags = append(diags, mistake(b.Format.Expr.Range(), "Format without a signature", "format does not use ${signature}.")...)
		}
		s.format = &x
		told = told || x.refers("request", "timestamp")
	}
	switch {
	case more.HasErrors():
	case !s.sign.refers("request"):
		diags = append(diags, mistake(b.Sign.Expr.Range(), "Nothing is signed", "sign uses nothing of request, so the signature would be good for any request.")...)
	case s.sign.refers("request", "timestamp") && !told:
		diags = append(diags, mistake(b.Sign.Expr.Range(), "Timestamp is not sent", "sign uses request.timestamp, which the API cannot know: name a timestamp_header, or put it into format.")...)
	}
	return s.apply, diags
}

// apply sets the headers of a request that is complete otherwise. Errors are
// ErrInvalid and hold no value.
func (s signer) apply(req *http.Request, now time.Time) error {
	var body []byte
	if req.GetBody != nil {
		r, err := req.GetBody()
		if err != nil {
			return err
		}
		if body, err = io.ReadAll(r); err != nil {
			return err
		}
	}
	digest := s.newHash()
	digest.Write(body)
	timestamp := s.timestamp(now)
	vars := &hcl.EvalContext{Functions: functions, Variables: map[string]cty.Value{
		"request": cty.ObjectVal(map[string]cty.Value{
			"method": cty.StringVal(req.Method), "host": cty.StringVal(req.URL.Host),
			"target": cty.StringVal(req.URL.RequestURI()), "path": cty.StringVal(req.URL.EscapedPath()),
			"query": cty.StringVal(req.URL.RawQuery), "body": cty.StringVal(string(body)),
			"body_digest": cty.StringVal(s.encode(digest.Sum(nil))), "timestamp": cty.StringVal(timestamp),
		}),
	}}
	text, err := s.sign.text(vars)
	if err != nil {
		return err
	}
	mac := hmac.New(s.newHash, s.key())
	mac.Write([]byte(text))
	value := s.encode(mac.Sum(nil))
	if s.format != nil {
		vars.Variables["signature"] = cty.StringVal(value)
		if value, err = s.format.text(vars); err != nil {
			return err
		}
	}
	if !httpguts.ValidHeaderFieldValue(value) {
		return fmt.Errorf("%w: the value at %s cannot stand in a header", backends.ErrInvalid, s.format.expr.Range())
	}
	req.Header.Set(s.header, value)
	if s.timestampHeader != "" {
		req.Header.Set(s.timestampHeader, timestamp)
	}
	return nil
}
