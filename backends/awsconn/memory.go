package awsconn

import (
	"bytes"
	"io"
	"net/http"
)

// InMemory makes a transport for the SDK's clients out of Go's, which sends bodies as
// what it knows to be in memory, all at once.
//
// Of any other body net/http sends the head first and the rest then, and looks at last
// whether more follows. The SDK's (smithy-go's safeReadCloser, by its WriteTo) gives an
// error there once the SDK has closed it, as it does when the answer has begun. The
// connection is dropped with the rest of the answer: an answer of 200 without its body
// now and then, and nobody learns what became of a write.
func InMemory(transport *http.Transport) http.RoundTripper { return inMemory{transport} }

type inMemory struct{ *http.Transport }

func (t inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		return t.Transport.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close() // as a RoundTripper has to
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	return t.Transport.RoundTrip(r)
}
