package httpapi

import (
	"context"
	"errors"
	"net/http"
	"reflect"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/ratelimit"
)

// Logins are how a caller becomes somebody.
type Logins interface {
	AuthMethods(ctx context.Context) (client.List[client.AuthMethod], error)
	// LogIn makes a token for whom the JWT, or the certificate among what is shown,
	// proves, and admit takes. ErrDenied, whose text is for the caller, if nobody is
	// proven; or the error of admit.
	LogIn(ctx context.Context, shown authn.Credentials, method string, r client.LoginRequest, admit func(authn.Principal) error) (client.Token, error)
}

// methodsToLogIn serves the ways to log in.
func methodsToLogIn() Endpoint {
	return tells(func(b Broker, ctx context.Context, _ authn.Principal) (client.List[client.AuthMethod], error) {
		return b.AuthMethods(ctx)
	})
}

// logsIn serves who wants a token for a JWT or a certificate.
func logsIn() Endpoint {
	return Endpoint{Body: reflect.TypeFor[client.LoginRequest](), Status: http.StatusCreated, Answer: reflect.TypeFor[client.Token](), serve: (*server).logIn}
}

func (s *server) logIn(w http.ResponseWriter, r *http.Request, _ authn.Principal) error {
	var body client.LoginRequest
	if err := bare(r, &body); err != nil {
		return err
	}
	// Each login leaves a token and records, whoever else is at the same address.
	admit := func(p authn.Principal) error { return admit(w.Header(), s.ofCaller(ratelimit.Ordinary, p)...) }
	token, err := s.Broker.LogIn(r.Context(), credentials(w, r), r.PathValue("method"), body, admit)
	if err != nil {
		return loginRefusal(err)
	}
	return send(w, http.StatusCreated, token)
}

// credentials are what a request shows of its caller.
func credentials(w http.ResponseWriter, r *http.Request) authn.Credentials {
	token, _ := bearer(r)
	shown := authn.Credentials{Token: token, Role: r.Header.Get(client.RoleHeader), Address: address(r), Request: requestID(w)}
	if r.TLS != nil {
		shown.Certificates = r.TLS.PeerCertificates
	}
	return shown
}

// loginRefusal is the answer to a login that was refused: unlike with tokens, why is
// told, since it is about what the caller has shown.
func loginRefusal(err error) error {
	_, waits := errors.AsType[waiter](err)
	_, kept := errors.AsType[*authn.KeptOut](err)
	if waits || kept || !errors.Is(err, backends.ErrDenied) {
		return err
	}
	return &failure{status: http.StatusUnauthorized, detail: err.Error(), header: errNoToken.header}
}
