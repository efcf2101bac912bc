package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

const (
	// placeholder stands for what env() and file() would give, offline. As hexadecimal
	// and as base64 it can be decoded.
	placeholder = "0ff11ce0"
	// maxSecretFile bounds what file() reads, in bytes.
	maxSecretFile = 1 << 20
)

const (
	howToWriteSecrets = `Write env("NAME") or file("path"); what is secret does not stand in the configuration itself.`
	howToReferToo     = `Write env("NAME") or file("path"), or secret("NAME").FIELD of a secret that keybroker manages; what is secret does not stand in the configuration itself.`
)

func secretFunction(name string) bool {
	return name == "env" || name == "file" || name == managedFunction
}

// secret evaluates the expression of a secret: env("NAME"), file("path"), where it may
// stand secret("NAME").FIELD, or a quoted text with such calls in it. It walks the
// syntax itself. The HCL library never sees what the functions return: it prints values
// in diagnostics, and it brings texts into Unicode's normal form C, which would alter a
// credential.
func (d *decoder) secret(name string, expr hclsyntax.Expression) (string, bool) {
	found := calls(expr)
	mend := howToWriteSecrets
	if d.managed != nil {
		mend = howToReferToo
	}
	for _, call := range found {
		switch {
		case !secretFunction(call.Name):
			d.hidden = append(d.hidden, expr.Range())
			d.mistake(call.NameRange, fmt.Sprintf("There is no function %q here", call.Name), mend)
			return "", false
		case call.Name == managedFunction && d.managed == nil:
			d.mistake(call.NameRange, "secret() cannot be used here",
				`Only what backends, issuers and probes log in with can be a secret that keybroker manages. Write env("NAME") or file("path").`)
			return "", false
		}
	}
	if len(found) == 0 {
		d.hidden = append(d.hidden, expr.Range())
		d.mistake(expr.Range(), fmt.Sprintf("A literal where a secret belongs: %q is secret", name), mend)
		return "", false
	}
	if template, ok := expr.(*hclsyntax.TemplateExpr); ok {
		for _, p := range template.Parts {
			if _, ok := p.(*hclsyntax.LiteralValueExpr); ok {
				d.hidden = append(d.hidden, p.Range())
			}
		}
	}
	return d.secretText(expr)
}

func (d *decoder) secretText(expr hclsyntax.Expression) (string, bool) {
	switch e := expr.(type) {
	case *hclsyntax.ParenthesesExpr:
		return d.secretText(e.Expression)
	case *hclsyntax.TemplateWrapExpr:
		return d.secretText(e.Wrapped)
	case *hclsyntax.TemplateExpr:
		var b strings.Builder
		all := true
		for _, p := range e.Parts {
			text, ok := d.secretText(p)
			b.WriteString(text)
			all = all && ok
		}
		return b.String(), all
	case *hclsyntax.LiteralValueExpr:
		if e.Val.Type() == cty.String && !e.Val.IsNull() {
			return e.Val.AsString(), true
		}
	case *hclsyntax.RelativeTraversalExpr:
		if call, ok := e.Source.(*hclsyntax.FunctionCallExpr); ok && call.Name == managedFunction {
			return d.reference(e, call)
		}
	case *hclsyntax.FunctionCallExpr:
		if e.Name == managedFunction {
			d.mistake(e.Range(), "secret() gives a whole secret, of which one field is wanted here", howToRefer)
			return "", false
		}
		return d.call(e)
	}
	d.hidden = append(d.hidden, expr.Range())
	d.mistake(expr.Range(), "A secret cannot be computed", howToWriteSecrets)
	return "", false
}

// call evaluates env() or file(). What it tells of a failure is the operating
// system's reason alone: the argument may itself hold what env() returned.
func (d *decoder) call(call *hclsyntax.FunctionCallExpr) (string, bool) {
	if len(call.Args) != 1 || call.ExpandFinal {
		d.mistake(call.Range(), fmt.Sprintf("%s() takes one argument", call.Name), `Write env("NAME") or file("path").`)
		return "", false
	}
	for _, inner := range calls(call.Args[0]) {
		if inner.Name == managedFunction {
			d.mistake(inner.NameRange, fmt.Sprintf("secret() cannot name what %s() reads", call.Name), `Write its name itself.`)
			return "", false
		}
	}
	arg, ok := d.secretText(call.Args[0])
	if !ok {
		return "", false
	}
	if d.opts.Offline {
		return placeholder, true
	}
	if text, ok := d.taken[call.Range()]; ok {
		return text, true
	}
	read, what, mend := d.env, "The environment variable", "Set it before starting, or name another."
	if call.Name == "file" {
		read, what, mend = d.file, "The file", "Paths are relative to the configuration's directory; the file must be readable by this user."
	}
	text, err := read(arg)
	if err != nil {
		d.mistake(call.Range(), fmt.Sprintf("%s cannot be used: %s", what, err), mend)
		return "", false
	}
	if d.taken != nil {
		d.taken[call.Range()] = text
	}
	return text, true
}

func (d *decoder) env(name string) (string, error) {
	switch text, ok := d.opts.lookupEnv()(name); {
	case !ok:
		return "", errors.New("it is not set")
	case text == "":
		return "", errors.New("it is empty")
	default:
		return text, nil
	}
}

// file reads a file without the line break at its end.
func (d *decoder) file(path string) (string, error) {
	content, err := readRegular(d.path(path))
	if err != nil {
		return "", err
	}
	content = bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
	if len(content) == 0 {
		return "", errors.New("it is empty")
	}
	return string(content), nil
}

// readRegular reads a small regular file; others (a pipe, a terminal) could block
// or never end. Its errors do not name the path.
func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, reason(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, reason(err)
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return nil, reason(err)
	}
	if len(content) > maxSecretFile {
		return nil, fmt.Errorf("it is larger than %d bytes", maxSecretFile)
	}
	return content, nil
}

func reason(err error) error {
	var withPath *fs.PathError
	if errors.As(err, &withPath) {
		return withPath.Err
	}
	return errors.New("it cannot be read")
}
