package daemon_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// TestAReplacedSetupIsClosedLate: effects under way finish with the components that
// they began with, and when the node ends nothing is left open.
func TestAReplacedSetupIsClosedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		retire, end := daemon.Replaced()
		var closed atomic.Int32
		retire(func() { closed.Add(1) })
		time.Sleep(daemon.CloseAfter - time.Millisecond)
		synctest.Wait()
		if closed.Load() != 0 {
			t.Error("it was closed while an effect may use it")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if closed.Load() != 1 {
			t.Errorf("it was closed %d times", closed.Load())
		}
		retire(func() { closed.Add(1) })
		began := time.Now()
		end()
		if closed.Load() != 2 || time.Since(began) > 0 {
			t.Errorf("at the end %d of 2 are closed, after %s", closed.Load(), time.Since(began))
		}
	})
}

// TestWhatAReloadTakesOverIsClosedByItsLastSetup, and what it replaces with the
// setup that had it.
func TestWhatAReloadTakesOverIsClosedByItsLastSetup(t *testing.T) {
	t.Parallel()
	for changed, want := range map[bool][2]int{false: {0, 1}, true: {1, 2}} {
		stopped := 0
		first, second := daemon.Rebuilt(changed, func() { stopped++ })
		first()
		first()
		if stopped != want[0] {
			t.Errorf("changed %v: the first setup ended %d of its components, want %d", changed, stopped, want[0])
		}
		if second(); stopped != want[1] {
			t.Errorf("changed %v: after both %d components have ended, want %d", changed, stopped, want[1])
		}
	}
}

// writeCertificate writes a certificate of loopback and its key.
func (s *site) writeCertificate(serial int64) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, &x509.Certificate{SerialNumber: big.NewInt(serial)}, &key.PublicKey, key)
	if err != nil {
		s.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(filepath.Join(s.dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}

}

// TestReloadReadsTheListenersCertificateAnew: a renewed one needs no restart, and a
// broken one is refused.
func TestReloadReadsTheListenersCertificateAnew(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	s.hcl = `
listener "tcp" {
  address       = "` + s.addr + `"
  tls_cert_file = "cert.pem"
  tls_key_file  = "key.pem"
}
backend "local" "embedded" {}
`
	s.writeCertificate(1)
	s.adjust = func(o *daemon.Options) { o.LookForCertificates(time.Hour) }
	n := s.start()
	reload := func() error {
		c, err := client.New(n.addr, s.rootToken(), client.Options{CAFile: filepath.Join(s.dir, "trusted.pem")})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.Reload(t.Context(), client.ReloadRequest{})
		return err
	}
	serial := func() int64 {
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	trust := func() {
		if err := os.WriteFile(filepath.Join(s.dir, "trusted.pem"), []byte(s.read("cert.pem")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust()
	s.writeCertificate(2)
	if got := serial(); got != 1 {
		t.Errorf("before the reload it shows certificate %d", got)
	}
	if err := reload(); err != nil {
		t.Fatal(err)
	}
	trust()
	if got := serial(); got != 2 {
		t.Errorf("after the reload it shows certificate %d", got)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "cert.pem"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reload(); err == nil || !strings.Contains(problemsOf(err), "loading the listener's certificate") {
		t.Errorf("a broken certificate: %v %s", err, problemsOf(err))
	}
	if got := serial(); got != 2 {
		t.Errorf("after the refusal it shows certificate %d", got)
	}
}
