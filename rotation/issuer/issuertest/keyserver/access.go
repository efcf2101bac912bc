package keyserver

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// admin lets in who shows AdminToken, an access token of POST /oauth/token, or a
// signature by SigningKey: X-Signature is the HMAC-SHA-256 in hex of
//
//	X-Timestamp (unix seconds) "\n" method "\n" path?query "\n" SHA-256 of the body in hex
func (s *Server) admin(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		shown := r.Header.Get("Authorization")
		token, _ := strings.CutPrefix(shown, "Bearer ")
		switch {
		case subtle.ConstantTimeCompare([]byte(token), []byte(s.AdminToken)) == 1:
		case s.knows(token), s.signed(r):
		default:
			answer(w, http.StatusUnauthorized, map[string]any{"error": "wrong credentials " + shown + r.Header.Get("X-Signature")})
			return
		}
		next(w, r)
	}
}

// skew is how far a signature's timestamp may be off.
const skew = 5 * time.Minute

func (s *Server) signed(r *http.Request) bool {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	seconds, err := strconv.ParseInt(r.Header.Get("X-Timestamp"), 10, 64)
	s.mu.Lock()
	off := s.now().Sub(time.Unix(seconds, 0)).Abs()
	s.mu.Unlock()
	if err != nil || off > skew {
		return false
	}
	digest := sha256.Sum256(body)
	mac := hmac.New(sha256.New, []byte(s.SigningKey))
	mac.Write([]byte(r.Header.Get("X-Timestamp") + "\n" + r.Method + "\n" + r.URL.RequestURI() + "\n" + hex.EncodeToString(digest[:])))
	return hmac.Equal([]byte(r.Header.Get("X-Signature")), []byte(hex.EncodeToString(mac.Sum(nil))))
}

// access is an OAuth 2 access token.
type access struct{ expires time.Time }

// token grants client credentials (RFC 6749, 4.4), which come by HTTP basic or in the
// body.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	switch {
	case id != s.ClientID || secret != s.ClientSecret:
		answer(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client", "error_description": "wrong secret " + secret})
		return
	case r.PostFormValue("grant_type") != "client_credentials":
		answer(w, http.StatusBadRequest, map[string]any{"error": "unsupported_grant_type"})
		return
	case r.PostFormValue("scope") != "keys" || r.PostFormValue("audience") != "keyserver":
		answer(w, http.StatusBadRequest, map[string]any{"error": "invalid_scope"})
		return
	}
	token := "at-" + rand.Text()
	s.mu.Lock()
	life := s.tokenLife
	s.tokens[token] = access{s.now().Add(life)}
	s.everyToken = append(s.everyToken, token)
	s.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"access_token": token, "token_type": "bearer", "expires_in": int(life.Seconds())})
}

func (s *Server) knows(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tokens[token]
	return ok && s.now().Before(t.expires)
}

// ForgetTokens ends every access token before its time.
func (s *Server) ForgetTokens() { s.set(func() { clear(s.tokens) }) }

// SetTokenLife sets how long access tokens made from now on live; an hour at first.
func (s *Server) SetTokenLife(d time.Duration) { s.set(func() { s.tokenLife = d }) }

// AccessTokens returns every access token ever made.
func (s *Server) AccessTokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.everyToken...)
}
