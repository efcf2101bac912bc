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

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keybroker/keybroker/broker/client"
)

// supplying are the flags of `rotation supply`. No value is among them: the arguments
// of a process are for everybody to see.
type supplying struct {
	fields []string
	handle []string
	reason string
	wait   bool
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
			"to whoever is to turn it off later.",
		Example: "  keybroker rotation supply 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --field key --handle id=key_123\n" +
			"  pass show portal/new | keybroker rotation supply 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 --field password\n" +
			"  keybroker rotation supply 019a4c0e-8d5a-7c3b-9a51-0c2f4b7d6e10 <value.json",
		Args:              takes("ID"),
		ValidArgsFunction: a.completeRotations(func(r client.Rotation) bool { return r.WaitingFor == waitValue }),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			r := client.SupplyRequest{Reason: s.reason}
			for _, part := range s.handle {
				if r.Handle == nil {
					r.Handle = map[string]string{}
				}
				if !addPart(r.Handle, part) {
					return usagef("--handle %q is no NAME=VALUE, or repeats one", part)
				}
			}
			var err error
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
	f.StringVar(&s.reason, "reason", "", "for the record, e.g. the ticket")
	f.BoolVar(&s.wait, "wait", false, "follow it; exit 1 unless everything is proven")
	return cmd
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
	var value client.Fields
	if json.Unmarshal(b, &value) != nil || len(value) == 0 { // its own error would quote it
		return nil, &hintError{errors.New("stdin holds no JSON object of texts"), `such as {"username": "…", "password": "…"}; or name the one field that it holds with --field`}
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
