package webhook_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func write(t testing.TB, text []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "newsletter.jwk")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func asPEM(t testing.TB, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func recipients(t testing.TB, text []byte) *webhook.Recipients {
	t.Helper()
	r, err := webhook.ReadRecipients(write(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// set is a JWK set of the public keys, each under its name.
func set(t testing.TB, keys map[string]crypto.Signer) []byte {
	t.Helper()
	var all jose.JSONWebKeySet
	for name, key := range keys {
		all.Keys = append(all.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: name})
	}
	slices.SortFunc(all.Keys, func(a, b jose.JSONWebKey) int { return strings.Compare(a.KeyID, b.KeyID) })
	return asJSON(t, all)
}

// jwe returns what was sealed for a message, as the event has it.
func jwe(t testing.TB, to *webhook.Recipients) json.RawMessage {
	t.Helper()
	m := message()
	m.Payload, m.Recipients = webhook.Sealed, to
	body, err := m.Body()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(body, []byte(canary)) {
		t.Fatalf("the value is in %s", body)
	}
	var e struct {
		Data struct {
			Payload webhook.Payload
			Fields  map[string]string
			Href    string
			Sealed  json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatal(err)
	}
	if e.Data.Payload != webhook.Sealed || e.Data.Fields != nil || e.Data.Href != "" {
		t.Errorf("got %s", body)
	}
	return e.Data.Sealed
}

func open(sealed []byte, key any) ([]byte, error) {
	object, err := jose.ParseEncryptedJSON(string(sealed), []jose.KeyAlgorithm{jose.ECDH_ES_A256KW, jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return nil, err
	}
	_, _, text, err := object.DecryptMulti(key)
	return text, err
}

const sealedText = `{"audience":"newsletter","tenant":"acme","secret":"mail/sender","version":4,"generation":9,` +
	`"fields":{"key":"` + canary + `","user":"sender"}}`

// TestSealedToEachRecipient: every key of the file opens every message, and no other.
func TestSealedToEachRecipient(t *testing.T) {
	keys := map[string]crypto.Signer{
		"p256": ecKey(t, elliptic.P256()), "p384": ecKey(t, elliptic.P384()), "p521": ecKey(t, elliptic.P521()), "rsa": rsaKey(),
	}
	got := jwe(t, recipients(t, set(t, keys)))
	for name, key := range keys {
		if text, err := open(got, key); err != nil || string(text) != sealedText {
			t.Errorf("%s: got %s, %v", name, text, err)
		}
	}
	stranger := ecKey(t, elliptic.P256())
	if text, err := open(got, stranger); err == nil {
		t.Errorf("a stranger's key opens it: %s", text)
	}
	changed := bytes.Replace(got, []byte(`"ciphertext":"`), []byte(`"ciphertext":"A`), 1)
	if _, err := open(changed, keys["p256"]); err == nil {
		t.Error("what was changed opens")
	}
}

// TestFormOfWhatIsSealed: the general JSON serialization (RFC 7516, 7.2.1), with alg and
// kid in each recipient's own header, also of a single one.
func TestFormOfWhatIsSealed(t *testing.T) {
	first, second := ecKey(t, elliptic.P256()), rsaKey()
	for _, keys := range []map[string]crypto.Signer{{"a": first}, {"a": first, "b": second}} {
		got := jwe(t, recipients(t, set(t, keys)))
		var members map[string]json.RawMessage
		var form struct {
			Protected  string
			Recipients []struct {
				Header       map[string]any
				EncryptedKey string `json:"encrypted_key"`
			}
		}
		if errors.Join(json.Unmarshal(got, &members), json.Unmarshal(got, &form)) != nil {
			t.Fatalf("got %s", got)
		}
		for name := range members {
			if !slices.Contains([]string{"protected", "recipients", "iv", "ciphertext", "tag"}, name) {
				t.Errorf("%d keys: %s has no place here", len(keys), name)
			}
		}
		protected, err := base64.RawURLEncoding.DecodeString(form.Protected)
		if err != nil || string(protected) != `{"cty":"application/json","enc":"A256GCM"}` {
			t.Errorf("%d keys: protected is %s, %v", len(keys), protected, err)
		}
		if len(form.Recipients) != len(keys) {
			t.Fatalf("%d keys: %d recipients", len(keys), len(form.Recipients))
		}
		for i, want := range []map[string]any{{"kid": "a", "alg": "ECDH-ES+A256KW"}, {"kid": "b", "alg": "RSA-OAEP-256"}}[:len(keys)] {
			r := form.Recipients[i]
			if r.Header["kid"] != want["kid"] || r.Header["alg"] != want["alg"] || r.EncryptedKey == "" {
				t.Errorf("%d keys: recipient %d is %v", len(keys), i, r)
			}
		}
		if text, err := open(got, first); err != nil || string(text) != sealedText {
			t.Errorf("%d keys: got %s, %v", len(keys), text, err)
		}
	}
}

func TestEachSealingIsNew(t *testing.T) {
	to := recipients(t, set(t, map[string]crypto.Signer{"a": ecKey(t, elliptic.P256())}))
	var wg sync.WaitGroup // and several at once
	got := make([]string, 8)
	for i := range got {
		wg.Go(func() { got[i] = string(jwe(t, to)) })
	}
	wg.Wait()
	slices.Sort(got)
	if len(slices.Compact(got)) != 8 {
		t.Error("two sealings are the same")
	}
}

func TestSealedFieldsThatAreNoText(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	m := message()
	m.Event, m.Payload, m.Recipients = rotation.EventRolledBack, webhook.Sealed, recipients(t, asPEM(t, key.Public()))
	m.Value = backends.NewValue(map[string]string{"key": "\xff\x00\xfe"})
	body, err := m.Body()
	if err != nil {
		t.Fatal(err)
	}
	var e struct {
		Data struct{ Sealed json.RawMessage }
	}
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatal(err)
	}
	text, err := open(e.Data.Sealed, key)
	if err != nil || !strings.HasSuffix(string(text), `"fields":{"key":"/wD+"},"encodings":{"key":"base64"}}`) {
		t.Errorf("got %s, %v", text, err)
	}
}

// TestKeyFiles: the forms in which a consumer may give its public keys.
func TestKeyFiles(t *testing.T) {
	ec, other := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384())
	thumbprint := func(key crypto.Signer) string {
		sum, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(sum)
	}
	ca := certtest.New(t, "newsletter", nil)
	for name, c := range map[string]struct {
		text []byte
		key  crypto.Signer // opens
		kids []string
	}{
		"a JWK":                    {asJSON(t, jose.JSONWebKey{Key: ec.Public(), KeyID: "2026", Use: "enc", Algorithm: "ECDH-ES+A256KW"}), ec, []string{"2026"}},
		"a JWK without a kid":      {asJSON(t, jose.JSONWebKey{Key: ec.Public()}), ec, []string{thumbprint(ec)}},
		"a set":                    {set(t, map[string]crypto.Signer{"a": ec, "b": rsaKey()}), rsaKey(), []string{"a", "b"}},
		"PEM":                      {asPEM(t, rsaKey().Public()), rsaKey(), []string{thumbprint(rsaKey())}},
		"PEM of two":               {append(asPEM(t, other.Public()), asPEM(t, ec.Public())...), ec, []string{thumbprint(other), thumbprint(ec)}},
		"PEM as of old":            {pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey)}), rsaKey(), []string{thumbprint(rsaKey())}},
		"a certificate":            {ca.PEM(), ca.Key, []string{thumbprint(ca.Key)}},
		"PEM after an explanation": {append([]byte("the keys of the newsletter\n\n"), asPEM(t, ec.Public())...), ec, []string{thumbprint(ec)}},
	} {
		to, err := webhook.ReadRecipients(write(t, c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.Equal(to.KeyIDs(), c.kids) {
			t.Errorf("%s: the kids are %v, want %v", name, to.KeyIDs(), c.kids)
		}
		if text, err := open(jwe(t, to), c.key); err != nil || string(text) != sealedText {
			t.Errorf("%s: got %s, %v", name, text, err)
		}
	}
}

// TestThumbprintIsThePublishedOne: the example of RFC 7638, 3.1.
func TestThumbprintIsThePublishedOne(t *testing.T) {
	to := recipients(t, []byte(`{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs`+
		`tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4`+
		`vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB"}`))
	if got := to.KeyIDs(); len(got) != 1 || got[0] != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("got %v", got)
	}
}

func TestKeysThatCannotBeUsed(t *testing.T) {
	ec := ecKey(t, elliptic.P256())
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signing, _, _ := ed25519.GenerateKey(rand.Reader)
	private, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	public := func(edit func(*jose.JSONWebKey)) []byte {
		k := jose.JSONWebKey{Key: ec.Public(), KeyID: "k"}
		edit(&k)
		return asJSON(t, k)
	}
	many := jose.JSONWebKeySet{}
	for i := range 17 {
		many.Keys = append(many.Keys, jose.JSONWebKey{Key: ec.Public(), KeyID: strings.Repeat("k", i+1)})
	}
	offCurve := `{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}`
	for name, c := range map[string]struct{ text, want string }{
		"nothing":              {"", "holds no public key"},
		"no keys":              {`{"keys":[]}`, "holds no public key"},
		"something else":       {canary, "holds no public key"},
		"no JSON":              {`{"keys":` + canary, "is no JSON Web Key"},
		"no type":              {`{"kid":"k"}`, "key 1 is no JSON Web Key"},
		"an unknown type":      {`{"kty":"` + canary + `"}`, "key 1 is no valid JSON Web Key"},
		"a symmetric key":      {`{"kty":"oct","k":"` + canary + `"}`, "key 1 is symmetric"},
		"a private key":        {string(asJSON(t, jose.JSONWebKey{Key: ec})), "key 1 is private"},
		"a private one of two": {string(asJSON(t, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: ec.Public(), KeyID: "a"}, {Key: rsaKey(), KeyID: "b"}}})), "key 2 is private"},
		"half a private key":   {`{"kty":"EC","crv":"P-256","d":"` + canary + `"}`, "key 1 is private"},
		"a private PEM":        {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), "key 1 is private"},
		"an encrypted PEM":     {string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte(canary)})), "key 1 is private"},
		"another PEM":          {string(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte(canary)})), "key 1 is neither a public key nor a certificate"},
		"a broken PEM":         {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte(canary)})), "key 1 cannot be parsed"},
		"short RSA":            {string(asPEM(t, weak.Public())), "key 1 is too weak"},
		"exponent 1":           {string(asPEM(t, &rsa.PublicKey{N: rsaKey().N, E: 1})), "key 1 "},
		"a short curve":        {string(asPEM(t, ecKey(t, elliptic.P224()).Public())), "key 1 is of a kind that messages cannot be sealed to"},
		"X25519":               {`{"kty":"OKP","crv":"X25519","x":"` + base64.RawURLEncoding.EncodeToString(x25519.PublicKey().Bytes()) + `"}`, "key 1 is of a kind that messages cannot be sealed to"},
		"X25519 in PEM":        {string(asPEM(t, x25519.PublicKey())), "key 1 is of a kind that messages cannot be sealed to"},
		"Ed25519":              {string(asPEM(t, signing)), "key 1 is for signing"},
		"Ed25519 as a JWK":     {string(asJSON(t, jose.JSONWebKey{Key: signing})), "key 1 is for signing"},
		"not on its curve":     {offCurve, "key 1 is no valid JSON Web Key"},
		"for signing":          {string(public(func(k *jose.JSONWebKey) { k.Use = "sig" })), `its use is "sig"`},
		"another algorithm":    {string(public(func(k *jose.JSONWebKey) { k.Algorithm = "ECDH-ES" })), `for the algorithm "ECDH-ES": leave that out, or write "ECDH-ES+A256KW"`},
		"one kid twice":        {string(asJSON(t, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: ec.Public(), KeyID: "a"}, {Key: rsaKey().Public(), KeyID: "a"}}})), `key 2 has the kid "a"`},
		"far too many":         {string(asJSON(t, many)), "holds 17 keys"},
	} {
		file := write(t, []byte(c.text))
		r, err := webhook.ReadRecipients(file)
		if !errors.Is(err, backends.ErrInvalid) || r != nil {
			t.Errorf("%s: got %v", name, err)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %q, want %q in it", name, err, c.want)
		}
		if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the file's content is in %q", name, err)
		}
	}
	if _, err := webhook.ReadRecipients(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a missing file: %v", err)
	}
}
