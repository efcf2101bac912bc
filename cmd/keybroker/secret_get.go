package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

// secretGetCommand is the only command that prints a secret's value.
func (a *app) secretGetCommand() *cobra.Command {
	var field string
	var version int
	cmd := &cobra.Command{
		Use:   "get NAME",
		Short: "Print the value of a secret",
		Long: "Print the value of a secret: all fields as a table or as JSON, or with --field the\n" +
			"bare value of one field, which a newline follows only on a terminal.",
		Example:           "  curl -H \"Authorization: Bearer $(keybroker secret get payments/stripe --field key)\" …",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if version < 0 {
				return usagef("--version is %d; versions are numbered from 1", version)
			}
			v, err := c.Value(ctx, args[0], version)
			if err != nil {
				return err
			}
			if field != "" {
				return a.printField(v, field)
			}
			return a.show(v, func(t *table) {
				t.row("FIELD", "VALUE")
				for _, name := range v.Fields.Names() {
					t.row(name, oneLine(v.Fields[name]))
				}
			})
		}),
	}
	cmd.Flags().StringVar(&field, "field", "", "print the bare value of this field")
	cmd.Flags().IntVar(&version, "version", 0, "of this version instead of the current one")
	return cmd
}

func (a *app) printField(v client.Value, field string) error {
	text, ok := v.Fields[field]
	if !ok {
		return &hintError{
			fmt.Errorf("version %d of %s has no field %q", v.Version, v.Name, field),
			"it has " + strings.Join(v.Fields.Names(), ", "),
		}
	}
	if a.json() {
		if !utf8.ValidString(text) {
			return &hintError{fmt.Errorf("the field %q is no text, for which JSON has no place", field), "without --format json its bytes are printed as they are; without --field it is printed as base64"}
		}
		return a.showJSON(text)
	}
	if _, ok := terminal(a.out); ok {
		text += "\n"
	}
	return write(a.out, text)
}

// oneLine quotes what would not stay on its line of a table.
func oneLine(s string) string {
	if s == printable(s) {
		return s
	}
	return strconv.Quote(s)
}
