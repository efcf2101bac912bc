package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keybroker/keybroker/broker/client"
)

// supplying are the flags of `rotation supply`. No value is among them: the arguments
// of a process are for everybody to see.
type supplying struct {
	fields   []string
	handle   []string
	notAfter string
	reason   string
	wait     bool
}

func (a *app) rotationSupplyCommand() *cobra.Command {
	var s supplying
	cmd := &cobra.Command{
		Use:   "supply ID",
		Short: "Hand in the credential that a rotation waits for",
		Long: "Hand in the credential that a rotation waits for, which you have made by hand at its\n" +
			"issuer. It is then verified, published and proven like any other.\n\n" +
			"The value comes from stdin, never from the command line: a JSON object of its fields,\n" +
			"or with --field the bare value of that one field, without the newline at its end. On a\n" +
			"terminal each --field is asked for, and not shown.\n\n" +
			"The handle is what the issuer calls the credential, e.g. the id of a key. It is shown\n" +
			"to whoever is to turn it off later. Where the credential ends by itself, say when: the\n" +
			"next one is asked for in time before that.",
		Example: "  keybroker rotation supply 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --field key --handle id=key_123\n" +
			"  pass show portal/new | keybroker rotation supply 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --field password\n" +
			"  keybroker rotation supply 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --not-after 2027-01-31 <value.json",
		Args:              takes("ID"),
		ValidArgsFunction: a.completeRotations(func(r client.Rotation) bool { return r.WaitingFor == waitValue }),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r := client.SupplyRequest{Reason: s.reason}
			var err error
			if r.Handle, err = handleOf(s.handle); err != nil {
				return err
			}
			if r.NotAfter, err = endOf(s.notAfter); err != nil {
				return err
			}
			if r.Fields, err = a.typedIn(s.fields); err != nil {
				return err
			}
			rotation, err := c.Supply(ctx, args[0], r)
			if err != nil {
				return err
			}
			return a.rotationBegun(ctx, c, rotation, s.wait)
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&s.fields, "field", nil, "the `NAME` of the field that stdin holds, or is asked for on a terminal; may be repeated there")
	f.StringArrayVar(&s.handle, "handle", nil, "one part of what its issuer calls it, as `NAME=VALUE`; may be repeated")
	f.StringVar(&s.notAfter, "not-after", "", "when it ends by itself, as a `TIME` (2027-01-31T12:00:00Z) or date (its first moment, in UTC)")
	f.StringVar(&s.reason, "reason", "", "for the record, e.g. the ticket")
	f.BoolVar(&s.wait, "wait", false, "follow it; exit 1 unless everything is proven")
	return cmd
}

// endOf reads when a credential ends.
func endOf(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, usagef("--not-after is %q; write a time as in 2027-01-31T12:00:00Z, or a date", text)
}

// maxSupplied bounds a value that is handed in: as much as a request may have.
const maxSupplied = 1 << 20

// typedIn reads a value: what it is, no error tells.
func (a *app) typedIn(fields []string) (client.Fields, error) {
	for i, name := range fields {
		if name == "" || strings.Contains(name, "=") {
			return nil, usagef("--field is the name of a field; its value comes from stdin, where nobody sees it")
		}
		for _, other := range fields[:i] {
			if other == name {
				return nil, usagef("--field %s is given twice", name)
			}
		}
	}
	if _, ok := terminal(a.in); ok {
		return a.askFor(fields)
	}
	if len(fields) > 1 {
		return nil, usagef("stdin holds one field: give several as a JSON object, without --field")
	}
	b, err := io.ReadAll(io.LimitReader(a.in, maxSupplied+1))
	defer clear(b)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the value from stdin: %w", err)
	case len(b) > maxSupplied:
		return nil, fmt.Errorf("reading the value from stdin: it is longer than %d bytes", maxSupplied)
	case len(bytes.TrimSpace(b)) == 0:
		return nil, usagef("stdin is empty: the value comes from there")
	case len(fields) == 1:
		b, _ = bytes.CutSuffix(b, []byte("\n"))
		b, _ = bytes.CutSuffix(b, []byte("\r"))
		return client.Fields{fields[0]: string(b)}, nil
	}
	value, err := textsIn(b)
	if err != nil {
		return nil, &hintError{err, `it is such as {"username": "…", "password": "…"}; or name the one field that it holds with --field`}
	}
	return value, nil
}

// textsIn reads a JSON object of texts, each name of which is there once. Its errors
// quote no value.
func textsIn(b []byte) (client.Fields, error) {
	none := errors.New("stdin holds no JSON object of texts")
	d := json.NewDecoder(bytes.NewReader(b))
	value := client.Fields{}
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, none
	}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, none
		}
		if _, twice := value[name]; twice {
			return nil, fmt.Errorf("stdin holds the field %s twice", name)
		}
		var text any
		if d.Decode(&text) != nil {
			return nil, none
		}
		if value[name], ok = text.(string); !ok {
			return nil, fmt.Errorf("the field %s on stdin is no text", name)
		}
	}
	if _, err := d.Token(); err != nil || len(value) == 0 {
		return nil, none
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, none
	}
	return value, nil
}

// askFor asks on the terminal, and shows nothing of what is typed.
func (a *app) askFor(fields []string) (client.Fields, error) {
	if len(fields) == 0 {
		return nil, usagef("--field is missing: which field is typed in?")
	}
	value := client.Fields{}
	for _, name := range fields {
		fmt.Fprintf(a.err, "%s: ", printable(name))
		b, err := term.ReadPassword(int(a.in.(*os.File).Fd())) // a terminal is a file
		fmt.Fprintln(a.err)
		if err != nil {
			return nil, fmt.Errorf("reading the field %s: %w", name, err)
		}
		if len(b) == 0 {
			return nil, errors.New("nothing was typed, and nothing was done")
		}
		value[name] = string(b)
		clear(b)
	}
	return value, nil
}
