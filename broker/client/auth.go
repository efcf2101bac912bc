package client

import (
	"context"
	"net/http"
)

// The types of auth methods.
const (
	AuthCertificate = "mtls" // by the certificate of the connection
	AuthPeople      = "oidc" // by an id_token, which people get at the issuer, or any other JWT of it
	AuthPrograms    = "jwt"  // by a JWT that the caller has already
)

// AuthMethod is a way to log in. It is told to everybody.
type AuthMethod struct {
	Name     string   `json:"name"`
	Type     string   `json:"type"`                // AuthCertificate, AuthPeople, AuthPrograms
	Issuer   string   `json:"issuer,omitempty"`    // where people log in: the URL of an OpenID provider
	ClientID string   `json:"client_id,omitempty"` // of the public client there
	Scopes   []string `json:"scopes,omitempty"`    // to ask for there
}

// LoginRequest asks for the token of a role.
type LoginRequest struct {
	Role string     `json:"role,omitempty"` // which of those that are bound to the caller; empty: the only one
	JWT  SecretText `json:"jwt,omitempty"`  // empty: the certificate of the connection is what is shown
}

// AuthMethods lists the ways to log in.
func (c *Client) AuthMethods(ctx context.Context) (List[AuthMethod], error) {
	return do[List[AuthMethod]](ctx, c, api(http.MethodGet, "auth"))
}

// LogIn exchanges a JWT, or the certificate of the connection, for a token. Only this
// answer carries it.
func (c *Client) LogIn(ctx context.Context, method string, r LoginRequest) (Token, error) {
	return do[Token](ctx, c, api(http.MethodPost, "auth", method, "login").send(r))
}
