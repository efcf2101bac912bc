package main

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
)

// checkServer refuses a server that somebody on the way could pose as: it names the
// provider that a person is sent to, and is given the proof of who they are.
func (a *app) checkServer() error {
	if webAddress(a.address()) == nil {
		return nil
	}
	return &hintError{fmt.Errorf("logging in at %s: it has to be https://, unless the server is on this machine", printable(a.address())), "see --addr and --ca-file"}
}

// checkEndpoints refuses a provider that names anything but addresses of the web: they
// are opened in a browser, and given codes.
func checkEndpoints(p *oidc.Provider) error {
	var keys struct {
		JWKS string `json:"jwks_uri"`
	}
	if err := p.Claims(&keys); err != nil {
		return fmt.Errorf("reading what the identity provider says of itself: %w", err)
	}
	e := p.Endpoint()
	for what, address := range map[string]string{"authorization_endpoint": e.AuthURL, "token_endpoint": e.TokenURL,
		"device_authorization_endpoint": e.DeviceAuthURL, "jwks_uri": keys.JWKS} {
		if address == "" && what == "device_authorization_endpoint" {
			continue
		}
		if err := webAddress(address); err != nil {
			return fmt.Errorf("the %s that the identity provider names, %q, %w", what, address, err)
		}
	}
	return nil
}

// webAddress tells what is wrong with an address that has to be one of the web: https,
// or plain http on this machine, and without anything that would steer a terminal.
func webAddress(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || strings.ContainsFunc(address, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }) {
		return errors.New("is no address of a web page")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	here := u.Hostname() == "localhost" || err == nil && ip.Unmap().IsLoopback()
	if u.Scheme == "https" || u.Scheme == "http" && here {
		return nil
	}
	return errors.New("does not begin with https://")
}
