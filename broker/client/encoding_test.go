package client_test

import (
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// TestFieldsThatAreNoText: what JSON has no place for comes back as it was.
func TestFieldsThatAreNoText(t *testing.T) {
	v := client.Value{Name: "app/key", Version: 2, Fields: client.Fields{"pem": "a<b>&\u2028", "der": "\xff\x00\xfe"},
		Previous: &client.PreviousValue{Version: 1, Fields: client.Fields{"der": "\xfe"}}}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"der":"/wD+"`, `"encodings":{"der":"base64"}`, `"der":"/g=="`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s has no %s", b, want)
		}
	}
	if v.Fields["der"] != "\xff\x00\xfe" {
		t.Error("encoding has changed the value itself")
	}
	c := connect(t, serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }), "t")
	got, err := c.Value(t.Context(), "app/key", 0)
	if err != nil || !reflect.DeepEqual(got, v) {
		t.Errorf("%v: it is another value: %q and %q", err, map[string]string(got.Fields), map[string]string(got.Previous.Fields))
	}
	text, err := json.Marshal(client.Value{Fields: client.Fields{"key": "text"}})
	if err != nil || strings.Contains(string(text), "encodings") {
		t.Errorf("text is encoded: %s, %v", text, err)
	}
}

// TestWrongEncodings: what a server gets wrong is quoted nowhere.
func TestWrongEncodings(t *testing.T) {
	for _, body := range []string{
		`{"fields":{"key":"` + canary + `"},"encodings":{"key":"base64"}}`,
		`{"fields":{"key":"` + canary + `"},"encodings":{"key":"hex"}}`,
		`{"encodings":{"key":"base64"}}`,
		`{"fields":{},"previous":{"fields":{"key":"` + canary + `"},"encodings":{"key":"base64"}}}`,
	} {
		c := connect(t, serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }), "t")
		if _, err := c.Value(t.Context(), "app/key", 0); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func FuzzEncodedFields(f *testing.F) {
	f.Add("key", "text")
	f.Add("key", "\xff")
	f.Fuzz(func(t *testing.T, name, text string) {
		name = strings.ToValidUTF8(name, "?")
		b, err := json.Marshal(client.Value{Fields: client.Fields{name: text}})
		var v client.Value
		if err == nil {
			err = json.Unmarshal(b, &v)
		}
		if err != nil || v.Fields[name] != text || len(v.Fields) != 1 || v.Encodings != nil {
			t.Errorf("%q became %q: %v", text, v.Fields[name], err)
		}
	})
}
