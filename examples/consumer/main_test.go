package main

import (
	"errors"
	"flag"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/rotation/webhook"
)

func TestAcknowledgesNoMoreThanItIsTold(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.signNew()
	c := programs()[0].run(t, "--consumer", "app", "--broker", b.url, "-apply", "none")
	if a := b.deliver(c.url, message("d", 1)); !a.received(message("d", 1), "go") {
		t.Errorf("got %+v", a)
	}
	if got := c.lines(); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	good := file(t, webhook.GenerateSecret().Reveal())
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nothing":        {nil, "-consumer is missing, or -secret-file"},
		"no such file":   {[]string{"-secret-file", filepath.Join(t.TempDir(), "none")}, "reading the signing secret"},
		"a bad secret":   {[]string{"-secret-file", file(t, canary)}, "the signing secret is not whsec_"},
		"an empty one":   {[]string{"-secret-file", file(t, ""), "-broker", ""}, "the broker's URL"},
		"a bad key":      {[]string{"-consumer", "app", "-key-file", file(t, canary)}, "the keys are neither"},
		"a bad apply":    {[]string{"-secret-file", good, "-apply", "maybe"}, `"maybe"`},
		"a bad address":  {[]string{"-secret-file", good, "-addr", "127.0.0.1:port"}, "listen"},
		"a bad broker":   {[]string{"-consumer", "app", "-broker", "http://broker.example"}, "not https"},
		"an inbox alone": {[]string{"-consumer", "app", "-inbox"}, "a token"},
		"a foreign flag": {[]string{"-secret", canary}, "not defined"},
		"an argument":    {[]string{"-secret-file", good, canary}, "no flags"},
	} {
		err := run(t.Context(), c.args, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := run(t.Context(), []string{"-h"}, io.Discard, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v", err)
	}
}
