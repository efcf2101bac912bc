package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/rotation/webhook"
)

// forge posts what claims to be signed, with as many signatures as are given.
func (b *broker) forge(url string, signatures ...string) answer {
	b.t.Helper()
	text := body(b.t, message("forged", 1))
	header := b.signer.Sign("forged", time.Now(), text)
	header.Set(webhook.HeaderSignature, strings.Join(signatures, " "))
	return b.post(url, header, text)
}

func junk(n int) []string {
	return slices.Repeat([]string{"v1a," + base64.StdEncoding.EncodeToString(make([]byte, 64))}, n)
}

// TestStrangersDoNotMakeItAskWithoutEnd: not where the broker cannot answer, either.
func TestStrangersDoNotMakeItAskWithoutEnd(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		const pause = 3 * time.Second // after an attempt that failed
		b := newBroker(t)
		b.signNew()
		b.publishNothing(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
		c := p.run(t, "--consumer", "app", "--broker", b.url, "--key-interval", p.instant)
		begun := time.Now()
		for range 10 {
			if a := b.forge(c.url, junk(1)...); a.code != http.StatusServiceUnavailable {
				t.Errorf("got %+v", a)
			}
		}
		if n, most := b.times(), 1+int(time.Since(begun)/pause); n > most {
			t.Errorf("it asked for the keys %d times", n)
		}
		b.publishNothing(nil)
		m := message("d", 1)
		eventually(t, "the keys to be asked for again", func() bool { return b.deliver(c.url, m).applied(m, p.name) })
	})
}

// TestGenuineMessagesDoNotWaitForForgedOnes has a forged one make it ask a broker that hangs.
func TestGenuineMessagesDoNotWaitForForgedOnes(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		b.signNew()
		c := p.run(t, "--consumer", "app", "--broker", b.url, "--key-interval", p.instant)
		if m := message("d1", 1); !b.deliver(c.url, m).applied(m, p.name) {
			t.Fatal("the first was not applied")
		}
		asking, gone, release := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
		b.publishNothing(func(_ http.ResponseWriter, r *http.Request) {
			asking <- struct{}{}
			select {
			case <-r.Context().Done():
				close(gone)
			case <-release:
			}
		})
		forged := make(chan answer, 1)
		go func() { forged <- b.forge(c.url, junk(1)...) }()
		<-asking
		if m := message("d2", 2); !b.deliver(c.url, m).applied(m, p.name) {
			t.Error("the second was not applied")
		}
		select {
		case <-gone:
			t.Error("it was taken only when the forged one was done with")
		default:
		}
		close(release)
		if a := <-forged; a.code == http.StatusOK {
			t.Errorf("got %+v", a)
		}
	})
}

func TestFewSignaturesAreLookedAt(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		b.signNew()
		c := p.run(t, "--consumer", "app", "--broker", b.url)
		for i, step := range []struct {
			before []string
			code   int
		}{
			{junk(4), http.StatusOK}, // as many as the broker has while keys are replaced
			{[]string{"v1a,AAAA", "v1a,!", "v1a,", "v1,AAAA", "v2,x"}, http.StatusOK},
			{junk(100), http.StatusUnauthorized},
		} {
			m := message(fmt.Sprintf("d%d", i), int64(i+1))
			text := body(t, m)
			header := b.signer.Sign(m.ID, time.Now(), text)
			header.Set(webhook.HeaderSignature, strings.Join(append(step.before, header.Get(webhook.HeaderSignature)), " "))
			if a := b.post(c.url, header, text); a.code != step.code {
				t.Errorf("%d: got %+v", i, a)
			}
		}
	})
}

func TestLongHeadersAreRefused(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.signNew()
	c := programs()[0].run(t, "--consumer", "app", "--broker", b.url)
	if a := b.forge(c.url, strings.Repeat("x", 30<<10)); a.code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %+v", a)
	}
}
