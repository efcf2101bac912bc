package crashtest_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// event is a message as it arrives; data is all that it says of a secret.
type event struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Data data   `json:"data"`
}

type data struct {
	Audience   string            `json:"audience"`
	Tenant     string            `json:"tenant"`
	Secret     string            `json:"secret"`
	Version    int               `json:"version"`
	Generation int64             `json:"generation"`
	Payload    string            `json:"payload"`
	Fields     map[string]string `json:"fields"`
	Sealed     json.RawMessage   `json:"sealed"`
}

// told is the event's name in the broker: "secret.rotated".
func (e event) told() rotation.Event {
	return rotation.Event(strings.TrimSuffix(strings.TrimPrefix(e.Type, "dev.keybroker."), ".v1"))
}

// answer is what a consumer says of a message.
type answer struct {
	Status      string `json:"status"`
	Generation  int64  `json:"generation"`
	Instance    string `json:"instance,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
}

const (
	received = "received"
	applied  = "applied"
)

// letter is one delivery as its consumer knows it.
type letter struct {
	print      [sha256.Size]byte // of what it says
	secret     string
	generation int64
	answered   string // what was answered, in the end
}

// holding is what a consumer uses of a secret.
type holding struct {
	version    int
	generation int64
	key        string
}

// errUnusable: a message cannot be used now, and is wanted again.
var errUnusable = errors.New("the message cannot be used now")

// application is a consumer by the contract, whatever way its messages come: it
// verifies, opens, applies and answers. It shares no code with the broker but the
// fingerprint, and remembers all that it was told, as no real one must.
type application struct {
	name      string
	keys      func() ([]ed25519.PublicKey, error)   // published by the broker
	open      func(data) (map[string]string, error) // finds the value of a version; nil: another one is current by now
	arrived   func(secret string, h holding)        // is told of each version that was made current
	violation func(format string, args ...any)

	mu      sync.Mutex // one message at a time
	known   []ed25519.PublicKey
	held    map[string]holding
	letters map[string]*letter // by webhook-id
	ids     map[string]string  // of letters, by what may be told once only
	newest  map[string]int64   // generation, by secret
	count   int
}

func newApplication(name string) *application {
	return &application{name: name, held: map[string]holding{}, letters: map[string]*letter{}, ids: map[string]string{}, newest: map[string]int64{}}
}

// take handles one message; fault, which may be nil, is asked whether the message
// is lost after it was looked at and before it is used.
func (a *application) take(header http.Header, body []byte, fault func(id string) error) (answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := header.Get("webhook-id")
	if err := a.verify(id, header, body); err != nil {
		return answer{}, err
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil || e.ID != id || e.Data.Audience != a.name {
		a.violation("%s was sent delivery %s, which calls itself %s and is for %q (%v)", a.name, id, e.ID, e.Data.Audience, err)
		return answer{}, errUnusable
	}
	l := a.note(id, e, body)
	if fault != nil {
		if err := fault(id); err != nil {
			return answer{}, err
		}
	}
	said := answer{Status: received, Generation: e.Data.Generation}
	if e.told().MakesCurrent() {
		var err error
		if said, err = a.apply(id, e); err != nil {
			return answer{}, err
		}
	}
	l.answered = said.Status
	return said, nil
}

// verify checks the signature by the keys that were published first: no kill may
// make the broker forget them.
func (a *application) verify(id string, header http.Header, body []byte) error {
	if a.known == nil {
		keys, err := a.keys()
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			a.violation("%s was sent delivery %s before any key was published", a.name, id)
		}
		a.known = keys
	}
	at, err := strconv.ParseInt(header.Get("webhook-timestamp"), 10, 64)
	if off := time.Since(time.Unix(at, 0)); err != nil || off.Abs() > time.Minute {
		a.violation("%s was sent delivery %s with the time %q", a.name, id, header.Get("webhook-timestamp"))
	}
	signed := fmt.Appendf(nil, "%s.%d.%s", id, at, body)
	for one := range strings.FieldsSeq(header.Get("webhook-signature")) {
		text, _ := strings.CutPrefix(one, "v1a,")
		signature, err := base64.StdEncoding.DecodeString(text)
		if err == nil && slices.ContainsFunc(a.known, func(k ed25519.PublicKey) bool { return ed25519.Verify(k, signed, signature) }) {
			return nil
		}
	}
	a.violation("%s was sent delivery %s, which none of the keys that were published first has signed", a.name, id)
	return errUnusable
}

// note keeps what arrived and compares it with what arrived before.
func (a *application) note(id string, e event, body []byte) *letter {
	a.count++
	d := e.Data
	if d.Generation < a.newest[d.Secret] {
		a.violation("%s: %s of generation %d of %s arrived after generation %d", a.name, e.told(), d.Generation, d.Secret, a.newest[d.Secret])
	}
	a.newest[d.Secret] = max(a.newest[d.Secret], d.Generation)
	print := said(body)
	if before := a.letters[id]; before != nil {
		if before.print != print {
			a.violation("%s: delivery %s of generation %d of %s says something else than before", a.name, id, d.Generation, d.Secret)
		}
		return before
	}
	if e.told().MakesCurrent() {
		once := fmt.Sprint(d.Secret, "#", d.Generation)
		if other, ok := a.ids[once]; ok {
			a.violation("%s: generation %d of %s was told by the deliveries %s and %s", a.name, d.Generation, d.Secret, other, id)
		}
		a.ids[once] = id
	}
	a.letters[id] = &letter{print: print, secret: d.Secret, generation: d.Generation}
	return a.letters[id]
}

// said is a digest of what a message says: sealed bytes differ each time, and the
// version that was replaced is told of only while it is valid.
func said(body []byte) [sha256.Size]byte {
	var all struct {
		Rest map[string]any `json:"data"`
		Type string         `json:"type"`
		Time string         `json:"time"`
	}
	_ = json.Unmarshal(body, &all) // it is an event: it was decoded before
	delete(all.Rest, "sealed")
	delete(all.Rest, "previous")
	text, _ := json.Marshal(all)
	return sha256.Sum256(text)
}

// apply brings the version into use, unless a newer one is.
func (a *application) apply(id string, e event) (answer, error) {
	said := answer{Status: received, Generation: e.Data.Generation}
	fields, err := a.open(e.Data)
	if err != nil || fields == nil {
		return said, err
	}
	h := holding{e.Data.Version, e.Data.Generation, fields["key"]}
	if h.key == "" {
		a.violation("%s: delivery %s of generation %d of %s has no key", a.name, id, h.generation, e.Data.Secret)
	}
	a.arrived(e.Data.Secret, h)
	if h.generation >= a.held[e.Data.Secret].generation {
		a.held[e.Data.Secret] = h
	}
	said.Status, said.Fingerprint = applied, rotation.Fingerprint(id, backends.NewValue(fields))
	return said, nil
}

// holds returns what is in use of a secret, and answered what a delivery was
// answered: empty if it never came, or was not taken.
func (a *application) holds(secret string) holding {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held[secret]
}

func (a *application) answered(id string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.letters[id]; l != nil {
		return l.answered
	}
	return ""
}

// forget drops what was told of a secret before a generation: none of it may come again.
func (a *application) forget(secret string, generation int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.letters, func(_ string, l *letter) bool { return l.secret == secret && l.generation < generation })
	maps.DeleteFunc(a.ids, func(_, id string) bool { return a.letters[id] == nil })
}

// publishedKeys fetches the keys that the broker signs with for a consumer.
func (s *site) publishedKeys(consumer string) ([]ed25519.PublicKey, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/.well-known/keybroker/webhook-keys/"+consumer, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var document struct {
		Keys []struct{ Kty, Crv, X string } `json:"keys"`
	}
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil || json.Unmarshal(text.Bytes(), &document) != nil {
		return nil, fmt.Errorf("%w: the keys of %s: status %d, %w", errUnusable, consumer, resp.StatusCode, err)
	}
	var keys []ed25519.PublicKey
	for _, k := range document.Keys {
		if x, err := base64.RawURLEncoding.DecodeString(k.X); err == nil && k.Kty == "OKP" && k.Crv == "Ed25519" && len(x) == ed25519.PublicKeySize {
			keys = append(keys, x)
		}
	}
	return keys, nil
}
