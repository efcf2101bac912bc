package vaultconn_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
)

// What quotes a value, or the request in which it stands as JSON, must not bring it
// into a log; what does not is told.
func TestAnswersThatQuoteAValue(t *testing.T) {
	s := vaultserver.Shared(t)
	for _, text := range []string{canary, "-----BEGIN\n" + canary + "\n", `a"` + canary + `\`, `\u0041\` + canary, "<&>é😀" + canary} {
		for message, told := range map[string]bool{"cannot take BODY": false, "cannot take AGAIN": false, "too long": true} {
			address := before(t, s, func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut {
					return true
				}
				body, _ := io.ReadAll(r.Body)
				again, _ := json.Marshal(string(body))
				said := strings.NewReplacer("BODY", string(body), "AGAIN", string(again)).Replace(message)
				answer, _ := json.Marshal(map[string][]string{"errors": {said}})
				w.WriteHeader(http.StatusBadRequest)
				_, _ = w.Write(answer)
				return false
			})
			c, _ := dial(t, tokenConfig(address, s.RootToken))
			_, err := c.Write(t.Context(), "secret/data/x", map[string]any{"data": map[string]string{"key": text}})
			wantClass(t, err, backends.ErrInvalid)
			if strings.Contains(fmt.Sprint(err), "too long") != told {
				t.Errorf("%q is told as %v", message, err)
			}
		}
	}
}
