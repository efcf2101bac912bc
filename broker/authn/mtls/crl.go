package mtls

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
)

const (
	// maxListSize bounds a file of revocation lists, in bytes.
	maxListSize = 64 << 20
	// listSkew is by how much the clock of who makes lists may be ahead of ours.
	listSkew = 5 * time.Minute
	// tellEvery is how often the log repeats that lists cannot be used.
	tellEvery = time.Minute
)

// revocations are the lists of a file, which is read again when it has changed. While
// what it holds cannot be read, the lists of before hold: they end by themselves. A
// nil one asks for no lists.
type revocations struct {
	file   string
	logger hclog.Logger

	mu      sync.Mutex
	seen    stamp // of the file as it was read last
	failed  error // why what was read then cannot be used
	lists   []*list
	count   uint64
	problem string    // that the log was told of last
	told    time.Time // when it was told that certificates are refused
}

// stamp tells two states of a file apart.
type stamp struct {
	size int64
	at   time.Time
}

// list is one revocation list, its entries by serial number.
type list struct {
	*x509.RevocationList
	revoked map[string]time.Time
	signers map[[sha256.Size]byte]bool // by the hash of an authority's certificate: whether it has signed the list
}

// isOf tells whether authority has signed the list. Names alone tell nothing: two
// authorities may have the same.
func (l *list) isOf(authority *x509.Certificate) bool {
	if !bytes.Equal(l.RawIssuer, authority.RawSubject) {
		return false
	}
	key := sha256.Sum256(authority.Raw)
	known, ok := l.signers[key]
	if !ok { // a long list takes a while to hash
		known = l.CheckSignatureFrom(authority) == nil
		l.signers[key] = known
	}
	return known
}

func (l *list) begun(at time.Time) bool { return !at.Add(listSkew).Before(l.ThisUpdate) }

func openRevocations(file string, logger hclog.Logger) (*revocations, error) {
	r := &revocations{file: file, logger: logger}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("%w: crl_file: %w", backends.ErrInvalid, err)
	}
	return r, nil
}

func (r *revocations) revision() uint64 {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	return r.count
}

// refresh reads the file again if it has changed, and logs what keeps it from that,
// once.
func (r *revocations) refresh() {
	problem := ""
	if err := r.load(); err != nil {
		problem = err.Error()
	}
	if problem != "" && problem != r.problem {
		r.logger.Error("the revocation lists cannot be read; those of before are used until they end", "file", r.file, "error", problem)
	}
	r.problem = problem
}

func (r *revocations) load() error {
	info, err := os.Stat(r.file)
	if err != nil {
		return err
	}
	now := stamp{info.Size(), info.ModTime()}
	if now == r.seen {
		return r.failed
	}
	if now.size > maxListSize {
		return fmt.Errorf("%s is larger than %d bytes", r.file, maxListSize)
	}
	content, err := os.ReadFile(r.file)
	if err != nil {
		return err
	}
	lists, err := parseLists(content)
	if r.seen, r.failed = now, err; err != nil {
		return err
	}
	r.lists = lists
	r.count++
	return nil
}

// parseLists reads PEM, or one list in DER.
func parseLists(content []byte) (lists []*list, err error) {
	for rest := content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("it holds a %s, where only revocation lists belong", block.Type)
		}
		l, err := parseList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("list %d: %w", len(lists)+1, err)
		}
		lists = append(lists, l)
	}
	if len(lists) > 0 {
		return lists, nil
	}
	l, err := parseList(content)
	if err != nil {
		return nil, fmt.Errorf("it holds no revocation list in PEM or DER: %w", err)
	}
	return []*list{l}, nil
}

// parseList refuses what it does not understand: a list that is only about some
// certificates, or tells only what has changed, would be taken for the whole
// (RFC 5280, 5.2: an unknown critical extension makes a list unusable).
func parseList(der []byte) (*list, error) {
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	for _, ext := range parsed.Extensions {
		if ext.Critical {
			return nil, fmt.Errorf("it has the critical extension %s, which is not understood: use complete lists", ext.Id)
		}
	}
	l := &list{RevocationList: parsed, revoked: make(map[string]time.Time, len(parsed.RevokedCertificateEntries)), signers: map[[sha256.Size]byte]bool{}}
	for _, entry := range parsed.RevokedCertificateEntries {
		for _, ext := range entry.Extensions {
			if ext.Critical {
				return nil, fmt.Errorf("an entry has the critical extension %s, which is not understood: use lists of one authority each", ext.Id)
			}
		}
		l.revoked[string(entry.SerialNumber.Bytes())] = entry.RevocationTime
	}
	return l, nil
}

// check returns those of the verified chains every one of whose authorities has a list
// that is of this time, and until when that is so; ErrDenied if there are none, or if a
// certificate of any of them is revoked: who has revoked it knows why.
func (r *revocations) check(chains [][]*x509.Certificate, at time.Time) (good [][]*x509.Certificate, until time.Time, err error) {
	if r == nil {
		return chains, until, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	var unsure error
	for _, chain := range chains {
		ends, err := r.checkChain(chain, at)
		switch {
		case errors.Is(err, errUnsure):
			unsure = err
			continue
		case err != nil:
			return nil, until, err
		}
		if good = append(good, chain); until.IsZero() || ends.Before(until) {
			until = ends
		}
	}
	if len(good) == 0 {
		return nil, until, unsure
	}
	return good, until, nil
}

// errUnsure is the reason where it cannot be told whether a certificate is revoked.
var errUnsure = fmt.Errorf("%w: it cannot be told whether the certificate is revoked", backends.ErrDenied)

// checkChain tells until when the lists are good.
func (r *revocations) checkChain(chain []*x509.Certificate, at time.Time) (until time.Time, err error) {
	for i, cert := range chain[:len(chain)-1] {
		authority := chain[i+1]
		l := r.newest(authority, at)
		switch {
		case l == nil:
			return until, r.unusable(at, fmt.Sprintf("there is no revocation list of %q", authority.Subject))
		case !l.begun(at):
			return until, r.unusable(at, fmt.Sprintf("the revocation list of %q is of the future: it begins at %s", authority.Subject, l.ThisUpdate.UTC().Format(time.RFC3339)))
		case l.NextUpdate.IsZero() || !at.Before(l.NextUpdate):
			return until, r.unusable(at, fmt.Sprintf("the revocation list of %q has ended at %s", authority.Subject, l.NextUpdate.UTC().Format(time.RFC3339)))
		}
		if since, ok := l.revoked[string(cert.SerialNumber.Bytes())]; ok {
			return until, denied("the certificate of %q was revoked at %s", cert.Subject, since.UTC().Format(time.RFC3339))
		}
		if until.IsZero() || l.NextUpdate.Before(until) {
			until = l.NextUpdate
		}
	}
	return until, nil
}

// newest returns the latest list that the authority has signed and that has begun: one
// that is to come takes the place of none before.
func (r *revocations) newest(authority *x509.Certificate, at time.Time) (found *list) {
	for _, l := range r.lists {
		better := found == nil || !found.begun(at) || l.begun(at) && l.ThisUpdate.After(found.ThisUpdate)
		if better && l.isOf(authority) {
			found = l
		}
	}
	return found
}

// unusable refuses a certificate because it cannot be told whether it is revoked, and
// says so in the log, since nobody can log in then.
func (r *revocations) unusable(at time.Time, why string) error {
	if at.Sub(r.told).Abs() >= tellEvery {
		r.told = at
		r.logger.Error("certificates are refused, since it cannot be told whether they are revoked", "file", r.file, "reason", why)
	}
	return fmt.Errorf("%w: %s", errUnsure, why)
}
