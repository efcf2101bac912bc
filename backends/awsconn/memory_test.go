package awsconn_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// body is one of the SDK's: looking past its end gives an error once it is closed.
type body struct {
	io.Reader
	closed   chan struct{}
	lookedAt atomic.Bool
}

func (b *body) Close() error { return nil }

func (b *body) WriteTo(io.Writer) (int64, error) {
	b.lookedAt.Store(true)
	<-b.closed
	return 0, io.EOF
}

func TestAnswerIsReadToItsEndThoughTheBodyIsClosed(t *testing.T) {
	closed := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Length", "8")
		_, _ = w.Write(asked)
		_ = http.NewResponseController(w).Flush()
		<-closed
		_, _ = io.WriteString(w, "done")
	}))
	defer srv.Close()
	conn, _ := load(t, keyed(srv.URL, anyKey))
	sent := &body{Reader: bytes.NewReader([]byte("ask ")), closed: closed}
	resp := post(t, conn, srv.URL, sent)
	close(closed) // as the SDK does as soon as the answer has begun
	defer func() { _ = resp.Body.Close() }()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "ask done" {
		t.Errorf("the answer was %q, %v", got, err)
	}
	if sent.lookedAt.Load() {
		t.Error("the body was looked at past its end")
	}
}

func post(t *testing.T, conn aws.Config, url string, sent io.ReadCloser) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, sent)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 4
	resp, err := conn.HTTPClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestBodyThatCannotBeRead(t *testing.T) {
	conn, _ := load(t, keyed("http://127.0.0.1:1", anyKey))
	broken := errors.New("broken")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:1", iotest.ErrReader(broken))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := conn.HTTPClient.Do(req); !errors.Is(err, broken) {
		_ = resp.Body.Close()
		t.Errorf("got %v, want that the body is broken", err)
	}
}
