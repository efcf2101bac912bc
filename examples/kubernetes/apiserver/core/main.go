// Command core is an API server of Kubernetes for tests, as far as who reads and
// patches ExternalSecrets meets one: the schema is that of the operator's own CRD, and
// what is validated with it, with defaults, unknown fields, metadata and merge patches,
// is the code of Kubernetes itself. Service accounts, roles and ExternalSecrets come from
// the manifests that are its arguments. It serves until its standard input is closed.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// hello is what is printed once it listens.
type hello struct {
	Address string            `json:"address"` // "https://127.0.0.1:…"
	CA      string            `json:"ca"`      // PEM
	Admin   string            `json:"admin"`   // token that may do everything
	Tokens  map[string]string `json:"tokens"`  // of the service accounts, by "namespace/name"
}

func main() {
	flag.Parse()
	if err := run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "core:", err)
		os.Exit(1)
	}
}

func run(manifests []string) error {
	schema, err := readSchema()
	if err != nil {
		return fmt.Errorf("reading the CRD: %w", err)
	}
	rights := newRights()
	store := &store{schema: schema, objects: map[key]object{}, now: time.Now}
	for _, file := range manifests {
		if err := readManifests(file, rights, store); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	certificate, ca, err := certify()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           newAPI(store, rights),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13},
		ReadHeaderTimeout: 10 * time.Second,
	}
	defer func() { _ = server.Close() }()
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(listener, "", "") }()
	h := hello{Address: "https://" + listener.Addr().String(), CA: ca, Admin: rights.admin, Tokens: rights.tokens()}
	if err := json.NewEncoder(os.Stdout).Encode(h); err != nil {
		return err
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		// The parent holds the other end: when it ends, however it ends, so do we.
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	select {
	case err := <-failed:
		return err
	case <-closed:
		return nil
	}
}
