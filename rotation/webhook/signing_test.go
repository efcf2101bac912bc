package webhook_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/webhook"
)

const (
	vectorSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID     = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorBody   = `{"test": 2432232314}`
	vectorPair   = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
	vectorPublic = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
)

var vectorTime = time.Unix(1614265330, 0)

func signer(t testing.TB, secrets ...backends.SecretString) *webhook.Signer {
	t.Helper()
	s, err := webhook.NewSigner(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func oracle(t testing.TB, secret backends.SecretString) *standardwebhooks.Webhook {
	t.Helper()
	o, err := standardwebhooks.NewWebhook(secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func verify(h http.Header, body string, now time.Time, secrets ...backends.SecretString) error {
	return webhook.Verify(secrets, h, []byte(body), now, webhook.Tolerance)
}

func TestSignGivesThePublishedVector(t *testing.T) {
	h := signer(t, vectorSecret).Sign(vectorID, vectorTime, []byte(vectorBody))
	want := http.Header{}
	want.Set("webhook-id", vectorID)
	want.Set("webhook-timestamp", "1614265330")
	want.Set("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
	if fmt.Sprint(h) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", h, want)
	}
	if err := verify(h, vectorBody, vectorTime, vectorSecret); err != nil {
		t.Error(err)
	}
}

func TestLibraryAcceptsWhatWeSignAndViceVersa(t *testing.T) {
	secret, now := webhook.GenerateSecret(), time.Now()
	ours := signer(t, webhook.GenerateSecret(), secret).Sign("d1", now, []byte(vectorBody))
	if err := oracle(t, secret).Verify([]byte(vectorBody), ours); err != nil {
		t.Errorf("the library refuses our signature: %v", err)
	}
	theirs, err := oracle(t, secret).Sign("d2", now, []byte(vectorBody))
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	h.Set("webhook-id", "d2")
	h.Set("webhook-timestamp", fmt.Sprint(now.Unix()))
	h.Set("webhook-signature", "v1,bm9uZQ== "+theirs)
	if err := verify(h, vectorBody, now, secret); err != nil {
		t.Errorf("we refuse the library's signature: %v", err)
	}
}

func TestAsymmetricSignature(t *testing.T) {
	h := signer(t, vectorPair).Sign(vectorID, vectorTime, []byte(vectorBody))
	encoded, ok := strings.CutPrefix(h.Get("webhook-signature"), "v1a,")
	if !ok {
		t.Fatalf("got %v", h)
	}
	signature, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	public, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(vectorPublic, "whpk_"))
	if err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(public, []byte(vectorID+".1614265330."+vectorBody), signature) {
		t.Error("the signature is not one of id.timestamp.body")
	}
	for _, s := range []backends.SecretString{vectorPublic, vectorPair, backends.SecretString(vectorPair[:len("whsk_")+43] + "=")} {
		if s != vectorPublic { // seed alone or both halves: the same key
			if again := signer(t, s).Sign(vectorID, vectorTime, []byte(vectorBody)); fmt.Sprint(again) != fmt.Sprint(h) {
				t.Error("the seed gives another signature than the pair")
			}
		}
		if err := verify(h, vectorBody, vectorTime, s); err != nil {
			t.Error(err)
		}
	}
	private, generated := webhook.GenerateKeyPair()
	h = signer(t, private).Sign("d", vectorTime, nil)
	if err := verify(h, "", vectorTime, backends.SecretString(generated)); err != nil {
		t.Errorf("a generated pair: %v", err)
	}
	if err := verify(h, "", vectorTime, vectorPublic, vectorSecret); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("with another key: %v", err)
	}
}

// TestConsumersOwnVerification does by hand what a consumer does that knows nothing but
// RFC 8032, RFC 8037 and the headers: it has the key from a JWK, and tries each
// signature, of which there are two while the key is replaced.
func TestConsumersOwnVerification(t *testing.T) {
	before, _ := webhook.GenerateKeyPair()
	after, _ := webhook.GenerateKeyPair()
	body := []byte(vectorBody)
	both := signer(t, before, after).Sign("d1", vectorTime, body)
	for name, c := range map[string]struct {
		published *webhook.Signer
		header    http.Header
		want      bool
	}{
		"knows the old one":            {signer(t, before), both, true},
		"knows the new one":            {signer(t, after), both, true},
		"has not heard of the new one": {signer(t, before), signer(t, after).Sign("d1", vectorTime, body), false},
	} {
		keys := c.published.PublicKeys()
		if len(keys) != 1 {
			t.Fatalf("%d keys", len(keys))
		}
		jwk := fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","x":%q}`, base64.RawURLEncoding.EncodeToString(keys[0]))
		if got := verifiesByHand(t, jwk, c.header, body); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
		if verifiesByHand(t, jwk, c.header, append(body, ' ')) {
			t.Errorf("%s: another body passes", name)
		}
	}
}

func verifiesByHand(t *testing.T, jwk string, h http.Header, body []byte) bool {
	t.Helper()
	var key struct{ X string }
	if err := json.Unmarshal([]byte(jwk), &key); err != nil {
		t.Fatal(err)
	}
	public, err := base64.RawURLEncoding.DecodeString(key.X)
	if err != nil {
		t.Fatal(err)
	}
	signed := h.Get("webhook-id") + "." + h.Get("webhook-timestamp") + "." + string(body)
	for one := range strings.SplitSeq(h.Get("webhook-signature"), " ") {
		text, ok := strings.CutPrefix(one, "v1a,")
		signature, err := base64.StdEncoding.DecodeString(text)
		if ok && err == nil && ed25519.Verify(public, []byte(signed), signature) {
			return true
		}
	}
	return false
}

func TestAlgorithmOf(t *testing.T) {
	for secret, want := range map[backends.SecretString]webhook.Algorithm{
		vectorSecret: webhook.HMAC, vectorPair: webhook.Ed25519, vectorSecret + "\n": webhook.HMAC,
	} {
		if got, err := webhook.AlgorithmOf(secret); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	for _, secret := range []backends.SecretString{vectorPublic, "", "whsec_"} {
		if got, err := webhook.AlgorithmOf(secret); !errors.Is(err, backends.ErrInvalid) || got != "" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if keys := signer(t, vectorSecret).PublicKeys(); keys != nil {
		t.Errorf("a symmetric secret has public keys: %v", keys)
	}
	if keys := signer(t, vectorSecret, vectorPair).PublicKeys(); len(keys) != 1 || "whpk_"+base64.StdEncoding.EncodeToString(keys[0]) != vectorPublic {
		t.Errorf("got %v", keys)
	}
}

func TestSeveralSecretsWhileOneIsReplaced(t *testing.T) {
	before, after := webhook.GenerateSecret(), webhook.GenerateSecret()
	h := signer(t, after, before, vectorPair).Sign("d", vectorTime, []byte(vectorBody))
	if n := len(strings.Fields(h.Get("webhook-signature"))); n != 3 {
		t.Errorf("%d signatures", n)
	}
	for _, secret := range []backends.SecretString{before, after, vectorPublic} {
		if err := verify(h, vectorBody, vectorTime, secret); err != nil {
			t.Error(err)
		}
	}
	if err := verify(h, vectorBody, vectorTime, webhook.GenerateSecret()); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("got %v", err)
	}
}

func TestVerifyRefusesWhatWasChanged(t *testing.T) {
	change := func(header, value string) func(http.Header) {
		return func(h http.Header) { h.Set(header, value) }
	}
	for name, spoil := range map[string]func(http.Header){
		"another id":           change("webhook-id", "other"),
		"no id":                func(h http.Header) { h.Del("webhook-id") },
		"a dot in the id":      change("webhook-id", vectorID+".1614265330"),
		"another timestamp":    change("webhook-timestamp", "1614265331"),
		"no timestamp":         func(h http.Header) { h.Del("webhook-timestamp") },
		"a strange timestamp":  change("webhook-timestamp", "soon"),
		"no signature":         func(h http.Header) { h.Del("webhook-signature") },
		"an empty signature":   change("webhook-signature", "v1,"),
		"another version":      change("webhook-signature", "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
		"the wrong algorithm":  change("webhook-signature", "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
		"a part of one":        change("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ"),
		"something else there": change("webhook-signature", "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
	} {
		h := signer(t, vectorSecret).Sign(vectorID, vectorTime, []byte(vectorBody))
		spoil(h)
		if err := verify(h, vectorBody, vectorTime, vectorSecret, vectorPublic); !errors.Is(err, backends.ErrDenied) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	h := signer(t, vectorSecret).Sign(vectorID, vectorTime, []byte(vectorBody))
	if err := verify(h, vectorBody+" ", vectorTime, vectorSecret); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("another body: got %v", err)
	}
}

func TestToleranceOfTimestamps(t *testing.T) {
	h := signer(t, vectorSecret).Sign(vectorID, vectorTime, []byte(vectorBody))
	for offset, ok := range map[time.Duration]bool{
		5 * time.Minute: true, -5 * time.Minute: true,
		5*time.Minute + time.Second: false, -5*time.Minute - time.Second: false,
	} {
		if err := verify(h, vectorBody, vectorTime.Add(offset), vectorSecret); (err == nil) != ok {
			t.Errorf("%s away: got %v", offset, err)
		}
	}
}

func TestBadSecretsAreRefusedWithoutBeingShown(t *testing.T) {
	const canary = "Q0FOQVJZ" // base64 of "CANARY"
	for _, secret := range []backends.SecretString{
		"", canary, "whsec_" + canary, "whsec_!" + canary, "whsec_" + "QUFB" + backends.SecretString(strings.Repeat(canary, 11)),
		"whsk_" + canary, "whpk_" + canary, "sk_" + canary,
		backends.SecretString(vectorPair[:60] + canary + vectorPair[68:]), // halves that do not belong together
	} {
		_, err := webhook.NewSigner(vectorSecret, secret)
		if !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
			t.Errorf("signing: got %v", err)
		}
		err = verify(http.Header{}, "", vectorTime, secret)
		if !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
			t.Errorf("verifying: got %v", err)
		}
	}
	if _, err := webhook.NewSigner(vectorPublic); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("a public key signs: %v", err)
	}
	if _, err := webhook.NewSigner(); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("nothing signs: %v", err)
	}
	signer(t, vectorSecret+"\n") // as read from a file
}

func TestSignerDoesNotPrintItsKeys(t *testing.T) {
	s := signer(t, vectorSecret)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(format+format, s, *s); got != "(redacted)(redacted)" {
			t.Errorf("%s: got %s", format, got)
		}
	}
}

// FuzzVerify: what we accept, the reference library accepts, and what we sign, both
// accept, with either algorithm; whatever else comes as a signature is refused.
func FuzzVerify(f *testing.F) {
	f.Add("d1", "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", []byte(vectorBody))
	f.Add(vectorID, "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", []byte(vectorBody))
	f.Add("", "x", "v1, v1a,", []byte{})
	reference := oracle(f, vectorSecret)
	s, asymmetric := signer(f, vectorSecret), signer(f, vectorPair)
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		h := http.Header{}
		h.Set("webhook-id", id)
		h.Set("webhook-timestamp", timestamp)
		h.Set("webhook-signature", signature)
		ours := webhook.Verify([]backends.SecretString{vectorSecret}, h, body, vectorTime, webhook.Tolerance)
		if ours == nil {
			if theirs := reference.VerifyIgnoringTimestamp(body, h); theirs != nil {
				t.Errorf("accepted what the library refuses: %v", theirs)
			}
		}
		if id == "" || strings.Contains(id, ".") {
			return
		}
		signed := s.Sign(id, vectorTime, body)
		if err := webhook.Verify([]backends.SecretString{vectorSecret}, signed, body, vectorTime, 0); err != nil {
			t.Errorf("our own signature: %v", err)
		}
		if err := reference.VerifyIgnoringTimestamp(body, signed); err != nil {
			t.Errorf("the library on our signature: %v", err)
		}
		signed = asymmetric.Sign(id, vectorTime, body)
		if err := webhook.Verify([]backends.SecretString{vectorPublic}, signed, body, vectorTime, 0); err != nil {
			t.Errorf("our own v1a signature: %v", err)
		}
		if !slices.Contains(strings.Fields(signature), signed.Get("webhook-signature")) {
			signed.Set("webhook-signature", signature)
			if err := webhook.Verify([]backends.SecretString{vectorPublic}, signed, body, vectorTime, 0); err == nil {
				t.Error("a v1a signature that we did not make is accepted")
			}
		}
	})
}
