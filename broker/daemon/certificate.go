package daemon

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// certificateEvery is how often it is looked whether the listener's certificate was
// replaced. Files are read, not asked for their times: what replaces them may keep
// those, or lead a symbolic link elsewhere.
const certificateEvery = 5 * time.Second

// certificate is the listener's. It is read anew when its files change; a pair that is
// broken, or does not fit, leaves the one in use as it is.
type certificate struct {
	certFile, keyFile string
	log               hclog.Logger

	mu      sync.Mutex
	inUse   *tls.Certificate
	seen    [sha256.Size]byte // of what was in the files at the last look
	problem error             // why what is in the files now is not in use
}

// openCertificate reads the pair for the first time.
func openCertificate(certFile, keyFile string, logger hclog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: logger}
	if err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

// read takes the pair into use that is in the files now, if it can be used.
func (c *certificate) read() error {
	pair, seen, err := readPair(c.certFile, c.keyFile)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen, c.problem = seen, err
	if err == nil {
		c.inUse = pair
	}
	return err
}

// readPair reads both files. The digest is of whatever could be read of them.
func readPair(certFile, keyFile string) (*tls.Certificate, [sha256.Size]byte, error) {
	cert, certErr := os.ReadFile(certFile)
	key, keyErr := os.ReadFile(keyFile)
	digest := sha256.New()
	_, _ = fmt.Fprintf(digest, "%d %v %v\n", len(cert), certErr, keyErr) // a hash does not fail
	_, _ = digest.Write(cert)
	_, _ = digest.Write(key)
	seen := [sha256.Size]byte(digest.Sum(nil))
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, seen, fmt.Errorf("loading the listener's certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, seen, fmt.Errorf("loading the listener's certificate: %w", err)
	}
	return &pair, seen, nil
}

// watch looks after the files until ctx ends.
func (c *certificate) watch(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for changing := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			changing = c.look(changing)
		}
	}
}

// look reads the files if they have changed. Between the writing of one and of the
// other they do not fit together: what is wrong is told only if it is still so at
// the next look.
func (c *certificate) look(changing bool) (stillChanging bool) {
	pair, seen, err := readPair(c.certFile, c.keyFile)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case seen == c.seen && !changing:
		return false
	case err == nil:
		c.inUse, c.problem, c.seen = pair, nil, seen
		c.log.Info("the listener's certificate was replaced", "not_after", pair.Leaf.NotAfter)
		return false
	case seen != c.seen:
		c.seen = seen
		return true
	}
	c.problem = err
	c.log.Error("the listener's certificate was replaced by one that cannot be used; the one of before stays in use", "cert_file", c.certFile, "key_file", c.keyFile, "error", err)
	return false
}

// get gives the pair in use.
func (c *certificate) get() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inUse
}

// state tells until when the pair in use is valid, and why what is in the files now
// is not in use.
func (c *certificate) state() (notAfter time.Time, problem error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inUse.Leaf.NotAfter, c.problem
}
