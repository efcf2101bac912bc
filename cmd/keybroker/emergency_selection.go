package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keybroker/keybroker/broker/client"
)

// selection are the flags that say which secrets are meant.
type selection struct {
	client.Selector
	singly
	labels []string
	leaked string // the file that the value stands in, or "-"
	since  string
}

func (s *selection) flags(cmd *cobra.Command, a *app) {
	f := cmd.Flags()
	f.StringArrayVar(&s.Patterns, "match", nil, "secrets whose names match this `PATTERN`, as of policies (payments/*); can be repeated: one must match")
	f.StringArrayVar(&s.labels, "label", nil, "secrets with this label, `NAME=VALUE`; can be repeated: all must be there")
	s.add(f, &s.leaked, "leaked-value", "the versions that have the value in this `FILE`; -: in stdin, or typed unseen on a terminal")
	s.add(f, &s.Tenant, "tenant", "secrets of this tenant")
	s.add(f, &s.Backend, "backend", "secrets that this backend holds, also as a mirror")
	s.add(f, &s.Issuer, "issuer", "secrets of which this issuer made a version that may be alive")
	s.add(f, &s.Consumer, "consumer", "secrets that this consumer is told of")
	s.add(f, &s.ReadBy, "read-by", "the versions that this `ROLE` was given, or this identity (METHOD/SUBJECT) or token (tok_…), as `secret identify` prints them")
	s.add(f, &s.Address, "address", "the versions that were given to this address or `NETWORK` (192.0.2.0/24)")
	s.add(f, &s.since, "since", "with --read-by, --address: since this `TIME`; default: ever")
	f.BoolVar(&s.All, "all", false, "every secret")
	f.IntSliceVar(&s.Versions, "version", nil, "compromised version of the one secret that is named; can be repeated; default: every one that may be alive")
	_ = cmd.RegisterFlagCompletionFunc("consumer", a.completeConsumerFlag)
	_ = cmd.RegisterFlagCompletionFunc("issuer", a.completeIssuerFlag)
	_ = cmd.RegisterFlagCompletionFunc("quarantine-consumer", a.completeConsumerFlag)
	for _, name := range []string{"label", "tenant", "backend", "read-by", "address", "since", "match", "version", "reason", "quarantine-role", "leaked-at", "detected-at"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
}

// read is what the flags and names select.
func (s *selection) read(a *app, names []string) (_ client.Selector, err error) {
	s.Names = names
	if err := s.check(); err != nil {
		return client.Selector{}, err
	}
	if s.Labels, err = labelsOf(s.labels); err != nil {
		return client.Selector{}, err
	}
	for _, n := range s.Versions {
		if n < 1 {
			return client.Selector{}, usagef("--version is %d; versions begin at 1", n)
		}
	}
	if s.Since, err = a.moment("since", s.since); err != nil {
		return client.Selector{}, err
	}
	switch {
	case len(s.Versions) > 0 && !s.oneName():
		return client.Selector{}, usagef("--version is of one secret, by its name alone")
	case s.since != "" && s.ReadBy == "" && s.Address == "":
		return client.Selector{}, usagef("--since goes with --read-by or --address; when it leaked is --leaked-at")
	case s.none():
		return client.Selector{}, usagef("which secrets? give a NAME, or select with --leaked-value, --match, --label, …; every secret: --all")
	case s.leaked == "":
		return s.Selector, nil
	}
	s.Value, err = a.leakedValue("--leaked-value", s.leaked)
	return s.Selector, err
}

// kinds are how many kinds of selectors there are.
func (s *selection) kinds() int {
	n := 0
	for _, given := range []bool{len(s.Names) > 0, len(s.Patterns) > 0, len(s.labels) > 0, s.leaked != "", s.Tenant != "", s.Backend != "",
		s.Issuer != "", s.Consumer != "", s.ReadBy != "", s.Address != "", s.All} {
		if given {
			n++
		}
	}
	return n
}

func (s *selection) none() bool { return s.kinds() == 0 }

// oneName tells whether one secret is selected, by its name alone.
func (s *selection) oneName() bool { return len(s.Names) == 1 && s.kinds() == 1 }

// singly are the flags of a selection that are given at most once: of two, the last would
// win without a word, and what the first means would stay alive.
type singly struct{ twice string } // the flag that was given again; empty: none

// add declares one, which goes into value.
func (s *singly) add(f *pflag.FlagSet, value *string, name, usage string) {
	f.Var(&once{value: value, name: name, twice: &s.twice}, name, usage)
}

func (s *singly) check() error {
	if s.twice == "" {
		return nil
	}
	return usagef("--%s is given twice, and takes one: run the command once for each", s.twice)
}

// once is the value of such a flag. That it is given again is told by check alone: an error
// of Set would be printed with the value, which may be a secret in the wrong place.
type once struct {
	value, twice *string
	name         string
	given        bool
}

func (o *once) String() string {
	if o.value == nil { // pflag asks a zero one
		return ""
	}
	return *o.value
}

func (o *once) Set(text string) error {
	if o.given {
		*o.twice = o.name
	}
	*o.value, o.given = text, true
	return nil
}

func (*once) Type() string { return "string" }

func labelsOf(given []string) (map[string]string, error) {
	if len(given) == 0 {
		return nil, nil
	}
	labels := map[string]string{}
	for _, text := range given {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usagef("--label is %q; write NAME=VALUE", text)
		}
		if other, twice := labels[name]; twice && other != value {
			return nil, usagef("--label %s is given twice: no secret has both values", name)
		}
		labels[name] = value
	}
	return labels, nil
}

// completeSeveralSecrets completes names of secrets that are not named yet.
func (a *app) completeSeveralSecrets(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	found, directive := a.completeSecrets(cmd, nil, prefix)
	return slices.DeleteFunc(found, func(one string) bool {
		name, _, _ := strings.Cut(one, "\t")
		return slices.Contains(args, name)
	}), directive
}

func (a *app) completeIssuerFlag(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.completeIssuers(cmd, nil, prefix)
}
