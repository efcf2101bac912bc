package awsconn_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
)

// What quotes a value, or the whole request in which it stands as JSON in JSON, must
// not bring it into a log; what does not is told.
func TestAnswersThatQuoteAValue(t *testing.T) {
	quoting := func(code, message string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			again, _ := json.Marshal(string(body))
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			w.WriteHeader(http.StatusBadRequest)
			answer, _ := json.Marshal(map[string]string{
				"__type": code, "message": strings.NewReplacer("BODY", string(body), "AGAIN", string(again)).Replace(message),
			})
			_, _ = w.Write(answer)
		}
	}
	for _, text := range []string{canary, "-----BEGIN\n" + canary + "\n", `a"` + canary + `\`, `\u0041\` + canary, "<&>é😀" + canary, "{{" + canary + "}}"} {
		sent := backends.NewValue(map[string]string{"key": text})
		stored, _ := json.Marshal(sent.Reveal())
		for message, told := range map[string]bool{"cannot take BODY": false, "cannot take\nAGAIN": false, "too long": true} {
			srv := httptest.NewServer(quoting("ValidationException", message))
			conn, _ := load(t, keyed(srv.URL, anyKey))
			_, err := secretsmanager.NewFromConfig(conn).PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{
				SecretId: aws.String("x"), SecretString: aws.String(string(stored)), ClientRequestToken: aws.String("t"),
			})
			_, err2 := ssm.NewFromConfig(conn).PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("/x"), Value: aws.String(string(stored))})
			for service, err := range map[string]error{"secretsmanager": err, "ssm": err2} {
				err = awsconn.Fault(err, sent)
				wantClass(t, service+" of "+message, err, backends.ErrInvalid)
				if !strings.Contains(fmt.Sprint(err), "ValidationException") || strings.Contains(fmt.Sprint(err), "too long") != told {
					t.Errorf("%s: %q is told as %v", service, message, err)
				}
			}
			srv.Close()
		}
	}
}
