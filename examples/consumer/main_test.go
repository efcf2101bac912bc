package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/webhook"
)

const canary = "canary-c0de"

func secretFile(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// consumer runs the command until the test ends and returns the lines it prints.
func consumer(t *testing.T, args ...string) (*bufio.Scanner, func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, args, write)
		_ = write.Close()
		done <- err
	}()
	stop := func() error {
		cancel()
		_, _ = io.Copy(io.Discard, read)
		return <-done
	}
	return bufio.NewScanner(read), stop
}

func deliver(t *testing.T, url string, secret backends.SecretString) webhook.Outcome {
	t.Helper()
	client, err := outbound.New(outbound.Options{AllowPrivate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	signer, err := webhook.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	body, err := webhook.Message{
		ID: "d1", Ref: backends.Ref{Tenant: "default", Name: "demo/api-key"}, Version: 2, Generation: 7,
		PublishedAt: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), Payload: webhook.Plain,
		Value: backends.NewValue(map[string]string{"key": canary, "id": canary}),
	}.Body()
	if err != nil {
		t.Fatal(err)
	}
	e := webhook.Endpoint{URL: url, AllowPrivate: true, Payload: webhook.Plain}
	return webhook.NewSender(client, client, time.Now).Send(t.Context(), e, "d1", body, signer)
}

func TestPrintsTheVersionAndNeverTheKey(t *testing.T) {
	for apply, applied := range map[string]bool{"ack": true, "none": false} {
		secret := webhook.GenerateSecret()
		lines, stop := consumer(t, "-addr", "127.0.0.1:0", "-secret-file", secretFile(t, secret.Reveal()+"\n"), "-apply", apply)
		lines.Scan()
		url, ok := strings.CutPrefix(lines.Text(), "listening on ")
		if !ok {
			t.Fatalf("got %q; %v", lines.Text(), stop())
		}
		answered := make(chan webhook.Outcome, 1) // the command prints into an unbuffered pipe before it answers
		go func() { answered <- deliver(t, url, secret) }()
		lines.Scan()
		if got, want := lines.Text(), "using demo/api-key version 2 generation 7 (id, key)"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if o := <-answered; !o.Received || o.Applied != applied {
			t.Errorf("-apply %s: got %+v", apply, o)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestUsage(t *testing.T) {
	good := webhook.GenerateSecret().Reveal()
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no secret":      {nil, "-secret-file is missing"},
		"no such file":   {[]string{"-secret-file", filepath.Join(t.TempDir(), "none")}, "reading the signing secret"},
		"a bad secret":   {[]string{"-secret-file", secretFile(t, canary)}, "the signing secret is not whsec_"},
		"a bad apply":    {[]string{"-secret-file", secretFile(t, good), "-apply", "maybe"}, `"maybe"`},
		"a bad address":  {[]string{"-secret-file", secretFile(t, good), "-addr", "127.0.0.1:port"}, "listen"},
		"a foreign flag": {[]string{"-secret", canary}, "not defined"},
	} {
		err := run(t.Context(), c.args, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := run(t.Context(), []string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v", err)
	}
}
