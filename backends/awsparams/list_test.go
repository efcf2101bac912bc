package awsparams_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

func TestListReadsTheFolderOnce(t *testing.T) {
	s := motoserver.Shared(t)
	region := s.Region()
	client := ssm.NewFromConfig(s.AWS(region))
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("many/%02d", i))
	}
	for _, n := range slices.Backward(slices.Concat(want, []string{"-dash", "sys/x"})) { // and in another order
		put(t, client, &ssm.PutParameterInput{Name: aws.String("/keybroker/" + n), Value: aws.String("{}")})
	}
	put(t, client, &ssm.PutParameterInput{Name: aws.String("/keybrokers/x"), Value: aws.String("{}")})
	put(t, client, &ssm.PutParameterInput{Name: aws.String("keybroker"), Value: aws.String("{}")})

	proxy := faultproxy.New(t, s.URL)
	d := open(t, config(proxy.URL, region))
	list := func(after string, want []string) string {
		t.Helper()
		names, next, err := d.List(t.Context(), ref.Tenant, after, 10)
		if err != nil || !slices.Equal(names, want) {
			t.Fatalf("after %q: %q, %v, want %q", after, names, err, want)
		}
		return next
	}
	after := list("", want[:10])
	if after = list(list(after, want[10:20]), want[20:]); after != "" || proxy.Requests() != 3 {
		t.Errorf("three pages took %d requests, want those of one pass: 3; then comes %q", proxy.Requests(), after)
	}
	// What was found is not used once a secret was made here.
	if _, err := d.Publish(t.Context(), backends.Ref{Tenant: ref.Tenant, Name: "many/24-new"}, write(1, "")); err != nil {
		t.Fatal(err)
	}
	list("many/20", slices.Concat(want[21:], []string{"many/24-new"}))
}

func TestPassThatIsBrokenOffGoesOn(t *testing.T) {
	s := motoserver.Shared(t)
	region := s.Region()
	client := ssm.NewFromConfig(s.AWS(region))
	var want []string
	for i := range 35 {
		want = append(want, fmt.Sprintf("many/%02d", i))
		put(t, client, &ssm.PutParameterInput{Name: aws.String("/keybroker/" + want[i]), Value: aws.String("{}")})
	}
	failing := faultproxy.New(t, s.URL)
	driver := open(t, config(failing.URL, region))
	spoil := func(skip int) {
		failing.Set(faultproxy.Rule{Fault: faultproxy.Status(http.StatusTooManyRequests), Skip: skip, Times: 1})
	}
	asked := 0
	list := func(doing string, requests int, wrong error) {
		t.Helper()
		names, _, err := driver.List(t.Context(), ref.Tenant, "", 100)
		if !errors.Is(err, wrong) || wrong == nil && !slices.Equal(names, want) {
			t.Fatalf("%s: listed %q, %v", doing, names, err)
		}
		if n := failing.Requests() - asked; n != requests {
			t.Errorf("%s: it took %d requests, want %d", doing, n, requests)
		}
		asked = failing.Requests()
	}
	spoil(2)
	list("of four pages the third fails", 3, backends.ErrUnavailable)
	spoil(1)
	list("then the fourth", 2, backends.ErrUnavailable)
	list("then none", 1, nil)
	list("a new pass", 4, nil)

	// What was found of it is not used once a secret was made here.
	spoil(3)
	list("the fourth fails again", 4, backends.ErrUnavailable)
	want = append(want, "many/99")
	if _, err := driver.Publish(t.Context(), backends.Ref{Tenant: ref.Tenant, Name: "many/99"}, write(1, "")); err != nil {
		t.Fatal(err)
	}
	asked = failing.Requests()
	list("from the beginning", 4, nil)

	// Nor once it is old.
	spoil(3)
	list("the fourth fails once more", 4, backends.ErrUnavailable)
	driver.SetNow(func() time.Time { return time.Now().Add(2 * time.Minute) })
	list("after two minutes", 4, nil)
}

func TestPassWhoseTokenIsRefusedBeginsAgain(t *testing.T) {
	s := motoserver.Shared(t)
	region := s.Region()
	client := ssm.NewFromConfig(s.AWS(region))
	var want []string
	for i := range 15 {
		want = append(want, fmt.Sprintf("many/%02d", i))
		put(t, client, &ssm.PutParameterInput{Name: aws.String("/keybroker/" + want[i]), Value: aws.String("{}")})
	}
	var asked atomic.Int32
	d := open(t, config(before(t, s.URL, "GetParametersByPath", func(w http.ResponseWriter) bool {
		if asked.Add(1) != 2 {
			return false
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"__type":"InvalidNextToken","message":"it has expired"}`)
		return true
	}), region))
	_, _, err := d.List(t.Context(), ref.Tenant, "", 100)
	wantClass(t, "going on with an old token", err, backends.ErrUnavailable)
	names, _, err := d.List(t.Context(), ref.Tenant, "", 100)
	if n := asked.Load(); err != nil || !slices.Equal(names, want) || n != 4 {
		t.Errorf("after %d requests: %q, %v", n, names, err)
	}
}
