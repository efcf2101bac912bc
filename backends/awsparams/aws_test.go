package awsparams_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsparams"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

func write(n int, expect backends.VersionID) backends.Write {
	return backends.Write{
		Value:      backends.NewValue(map[string]string{"key": fmt.Sprintf("%s-%d", backendtest.Canary, n)}),
		Expect:     expect,
		Token:      fmt.Sprintf("write-%d", n),
		Version:    n,
		Generation: int64(10 * n),
	}
}

func publish(t *testing.T, d backends.Driver, n int, expect backends.VersionID) backends.VersionID {
	t.Helper()
	id, err := d.Publish(t.Context(), ref, write(n, expect))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// here opens a driver of a region of its own and AWS's client of that region.
func here(t *testing.T, change func(*awsparams.Config)) (*awsparams.Driver, *ssm.Client) {
	t.Helper()
	s := motoserver.Shared(t)
	region := s.Region()
	cfg := config(s.URL, region)
	if change != nil {
		change(&cfg)
	}
	return open(t, cfg), ssm.NewFromConfig(s.AWS(region))
}

func wantClass(t *testing.T, doing string, err, class error) {
	t.Helper()
	if got := backends.Class(err); !errors.Is(got, class) {
		t.Errorf("%s: got %v, want an error of class %v", doing, err, class)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), backendtest.Canary) {
		t.Error("an error gives a value away")
	}
}

// newest is what AWS itself says of the newest version.
func newest(t *testing.T, client *ssm.Client) types.ParameterHistory {
	t.Helper()
	out, err := client.GetParameterHistory(t.Context(), &ssm.GetParameterHistoryInput{Name: aws.String(name), WithDecryption: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	return out.Parameters[len(out.Parameters)-1]
}

func label(t *testing.T, client *ssm.Client, version int64, labels ...string) {
	t.Helper()
	_, err := client.LabelParameterVersion(t.Context(), &ssm.LabelParameterVersionInput{
		Name: aws.String(name), ParameterVersion: &version, Labels: labels,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Applications that talk to AWS directly see what the broker publishes.
func TestAWSsOwnClientReadsWhatWasPublished(t *testing.T) {
	d, client := here(t, func(c *awsparams.Config) {
		c.KMSKeyID, c.Tier, c.Tags = "alias/secrets", "Advanced", map[string]string{"team": "growth"}
	})
	first := publish(t, d, 3, "")
	publish(t, d, 4, first)
	for called, want := range map[string]string{name: "-4", name + ":1": "-3", name + ":2": "-4"} {
		got, err := client.GetParameter(t.Context(), &ssm.GetParameterInput{Name: &called, WithDecryption: aws.Bool(true)})
		if err != nil || *got.Parameter.Value != `{"key":"`+backendtest.Canary+want+`"}` || got.Parameter.Type != types.ParameterTypeSecureString {
			t.Errorf("%s is another value than was published, or of another type: %v", called, err)
		}
	}
	got := newest(t, client)
	if aws.ToString(got.KeyId) != "alias/secrets" || got.Tier != types.ParameterTierAdvanced ||
		aws.ToString(got.Description) != "[keybroker version 4, generation 40, written as 2]" {
		t.Errorf("key %q, tier %s, description %q", aws.ToString(got.KeyId), got.Tier, aws.ToString(got.Description))
	}
	tags, err := client.ListTagsForResource(t.Context(), &ssm.ListTagsForResourceInput{
		ResourceType: types.ResourceTypeForTaggingParameter, ResourceId: aws.String(name),
	})
	if err != nil || len(tags.TagList) != 1 || *tags.TagList[0].Key != "team" || *tags.TagList[0].Value != "growth" {
		t.Errorf("its tags are %v, %v", tags.TagList, err)
	}
}

func TestWhatAParameterHasStays(t *testing.T) {
	for of, change := range map[string]func(*awsparams.Config){
		"alias/theirs": func(c *awsparams.Config) { c.Tier = "Standard" },
		"alias/ours":   func(c *awsparams.Config) { c.KMSKeyID = "alias/ours" },
	} {
		d, client := here(t, change)
		put(t, client, &ssm.PutParameterInput{
			Name: aws.String(name), Value: aws.String("{}"), KeyId: aws.String("alias/theirs"), Tier: types.ParameterTierAdvanced,
			Description: aws.String("Stripe,\nof growth"), AllowedPattern: aws.String("^{.*}$"),
		})
		publish(t, d, 2, publish(t, d, 1, "1"))
		got := newest(t, client)
		if aws.ToString(got.KeyId) != of || got.Tier != types.ParameterTierAdvanced || aws.ToString(got.AllowedPattern) != "^{.*}$" ||
			aws.ToString(got.Description) != "Stripe,\nof growth [keybroker version 2, generation 20, written as 3]" {
			t.Errorf("key %q, tier %s, pattern %q, description %q", aws.ToString(got.KeyId), got.Tier, aws.ToString(got.AllowedPattern), aws.ToString(got.Description))
		}
	}
}

// Somebody else's write keeps the description, and so the note; it tells what it is about.
func TestNoteOfAnEarlierVersion(t *testing.T) {
	d, client := here(t, nil)
	publish(t, d, 7, "")
	put(t, client, &ssm.PutParameterInput{Name: aws.String(name), Value: aws.String("{}"), Overwrite: aws.Bool(true)})
	desc, err := d.Describe(t.Context(), ref)
	if err != nil || desc.Current != "2" || desc.Note != (backends.Note{Of: "1", Version: 7, Generation: 70}) {
		t.Errorf("described as %+v, %v", desc, err)
	}
	long := strings.Repeat("ü", 1000)
	put(t, client, &ssm.PutParameterInput{Name: aws.String(name), Value: aws.String("{}"), Overwrite: aws.Bool(true), Description: &long})
	publish(t, d, 8, "3")
	if desc, err := d.Describe(t.Context(), ref); err != nil || desc.Note != (backends.Note{}) || *newest(t, client).Description != long {
		t.Errorf("a description without room for a note: %+v, %v", desc.Note, err)
	}
}

// before lets somebody else act right before each request of that operation reaches
// AWS, as long as they like; the request is theirs to answer.
func before(t *testing.T, to, operation string, act func(http.ResponseWriter) (answered bool)) (address string) {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), "."+operation) || !act(w) {
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestWriteBetweenTheLookAndOurs(t *testing.T) {
	s := motoserver.Shared(t)
	for what, tt := range map[string]struct {
		act    func(*ssm.Client)
		expect backends.VersionID
		want   backends.VersionID // empty: a conflict
	}{
		"a version": {func(c *ssm.Client) {
			put(t, c, &ssm.PutParameterInput{Name: aws.String(name), Value: aws.String("{}"), Overwrite: aws.Bool(true)})
		}, "1", "3"},
		"a deletion": {func(c *ssm.Client) {
			if _, err := c.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String(name)}); err != nil {
				t.Error(err)
			}
		}, "1", "1"},
		"the first version": {func(c *ssm.Client) {
			put(t, c, &ssm.PutParameterInput{Name: aws.String(name), Value: aws.String("{}")})
		}, "", ""},
	} {
		region := s.Region()
		client := ssm.NewFromConfig(s.AWS(region))
		if tt.expect != "" {
			publish(t, open(t, config(s.URL, region)), 1, "")
		}
		var once sync.Once
		d, log := openLogged(t, config(before(t, s.URL, "PutParameter", func(http.ResponseWriter) bool {
			once.Do(func() { tt.act(client) })
			return false
		}), region))
		id, err := d.Publish(t.Context(), ref, write(2, tt.expect))
		if tt.want == "" {
			wantClass(t, "beside "+what, err, backends.ErrConflict)
			continue
		}
		if err != nil || id != tt.want {
			t.Errorf("beside %s: published as %q, %v", what, id, err)
		}
		if v, at, err := d.Read(t.Context(), ref, ""); err != nil || at != tt.want || !v.Equal(write(2, "").Value) {
			t.Errorf("beside %s: current is %q, or another value: %v", what, at, err)
		}
		if said := log.String(); !strings.Contains(said, "somebody else") || !strings.Contains(said, "payments/stripe") {
			t.Errorf("beside %s: the log says %q", what, said)
		}
	}
}

func TestLabelsAreStages(t *testing.T) {
	d, client := here(t, nil)
	first := publish(t, d, 1, "")
	label(t, client, 1, "green", "blue")
	second := publish(t, d, 2, first)
	label(t, client, 2, "blue")
	desc, err := d.Describe(t.Context(), ref)
	if err != nil || !slices.Equal(desc.Versions[0].Stages, []string{"green"}) || !slices.Equal(desc.Versions[1].Stages, []string{"blue"}) {
		t.Errorf("described as %+v, %v", desc, err)
	}
	_, _, err = d.Read(t.Context(), ref, "green")
	wantClass(t, "reading a label", err, backends.ErrNotFound)
	label(t, client, 1, "a", "b", "c", "d", "e", "f", "g", "h", "i") // ten with green, and there cannot be more
	if err := d.Retire(t.Context(), ref, first); err != nil {
		t.Error(err)
	}
	wantClass(t, "retiring the current version", d.Retire(t.Context(), ref, second), backends.ErrConflict)
	desc, err = d.Describe(t.Context(), ref)
	if err != nil || len(desc.Versions[0].Stages) > 0 || !slices.Equal(desc.Versions[1].Stages, []string{"blue"}) {
		t.Errorf("described as %+v, %v", desc, err)
	}
}

// AWS writes nothing more once the oldest of 100 versions has a label.
func TestLabelOnTheOldestVersion(t *testing.T) {
	d, client := here(t, nil)
	id := publish(t, d, 1, "")
	label(t, client, 1, "stable")
	for n := 2; n <= 100; n++ {
		id = publish(t, d, n, id)
	}
	_, err := d.Publish(t.Context(), ref, write(101, id))
	wantClass(t, "publishing past a label", err, backends.ErrUnavailable) // nobody else wrote
	if wait, ok := backends.RetryAfter(err); !ok || wait < time.Second {
		t.Errorf("asking again at once, after %s, %t, mends nothing", wait, ok)
	}
	if mend := "--name " + name + " --parameter-version 1 --labels stable"; !strings.Contains(fmt.Sprint(err), mend) {
		t.Errorf("%v does not say how to mend it", err)
	}
	if err := d.Retire(t.Context(), ref, "1"); err != nil {
		t.Error(err)
	}
	if id = publish(t, d, 101, id); id != "101" {
		t.Errorf("published as %q", id)
	}
	if err := d.Retire(t.Context(), ref, "1"); err != nil {
		t.Errorf("retiring what AWS has dropped: %v", err)
	}
}

func TestParameterInClearIsReadAndNotWritten(t *testing.T) {
	d, client := here(t, nil)
	put(t, client, &ssm.PutParameterInput{Name: aws.String(name), Value: aws.String(`{"key":"x"}`), Type: types.ParameterTypeString})
	if v, id, err := d.Read(t.Context(), ref, ""); err != nil || id != "1" || v.Reveal()["key"] != "x" {
		t.Errorf("read version %q, %v", id, err)
	}
	_, err := d.Publish(t.Context(), ref, write(1, "1"))
	wantClass(t, "publishing in clear", err, backends.ErrUnsupported)
	if got := newest(t, client); got.Version != 1 {
		t.Errorf("there is a version %d", got.Version)
	}
}

func TestNamesWithoutAPlace(t *testing.T) {
	root := func(c *awsparams.Config) { c.PathPrefix = "" }
	deep := func(c *awsparams.Config) { c.PathPrefix = "1/2/3/4/5/6/7/8/9/10/11/12/13" }
	for _, tt := range []struct {
		name  string
		in    func(*awsparams.Config)
		legal bool
	}{
		{"a@b", nil, false}, {"a=b", nil, false}, {"awsome", nil, true}, {"ssm/x", nil, true},
		{"a/b", deep, true}, {"a/b/c", deep, false},
		{"stripe", root, true}, {"payments/stripe", root, true}, {"a.b_c-D", root, true},
		{"awsome", root, false}, {"AWS/x", root, false}, {"Ssm-key", root, false}, {"x/aws", root, true},
	} {
		cfg := config("", "")
		if tt.in != nil {
			tt.in(&cfg)
		}
		if err := cfg.CheckName(tt.name); errors.Is(err, backends.ErrInvalid) == tt.legal {
			t.Errorf("the name %q is checked with %v", tt.name, err)
		}
		d, _ := here(t, tt.in)
		ref := backends.Ref{Tenant: ref.Tenant, Name: tt.name}
		_, publishErr := d.Publish(t.Context(), ref, write(1, ""))
		_, _, readErr := d.Read(t.Context(), ref, "")
		_, describeErr := d.Describe(t.Context(), ref)
		for doing, err := range map[string]error{
			"publishing": publishErr, "reading": readErr, "describing": describeErr, "retiring": d.Retire(t.Context(), ref, "2"),
		} {
			if tt.legal && err != nil {
				t.Errorf("%s %q: %v", doing, tt.name, err)
			} else if !tt.legal {
				wantClass(t, doing+" "+tt.name, err, backends.ErrInvalid)
			}
		}
		names, _, err := d.List(t.Context(), ref.Tenant, "", 10)
		if err != nil || tt.legal != slices.Equal(names, []string{tt.name}) {
			t.Errorf("after %q: listed %q, %v", tt.name, names, err)
		}
	}
}

func TestReferencesAreNotWritten(t *testing.T) {
	d, client := here(t, nil)
	w := write(1, "")
	w.Value = backends.NewValue(map[string]string{"a{{b}}": "{{{ssm:x}}} }} {{{{ \\{{"})
	if _, err := d.Publish(t.Context(), ref, w); err != nil {
		t.Fatal(err)
	}
	if got := aws.ToString(newest(t, client).Value); strings.Contains(got, "{{") || strings.Contains(got, "}}") {
		t.Errorf("stored is %s, which AWS refuses", got) // made up above
	}
	if got, _, err := d.Read(t.Context(), ref, ""); err != nil || !got.Equal(w.Value) {
		t.Errorf("it came back as %v, %v", got.Reveal(), err)
	}
}

func TestRights(t *testing.T) {
	s := motoserver.SharedGuarded(t)
	key := s.User(t, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Resource":"*","Action":[
		"ssm:GetParameter","ssm:GetParameterHistory","ssm:GetParametersByPath","ssm:PutParameter"]}]}`)
	cfg := config(s.URL, s.Region())
	cfg.Conn.AccessKeyID, cfg.Conn.SecretAccessKey = backends.SecretString(key.ID), backends.SecretString(key.Secret)
	d := open(t, cfg)
	first := publish(t, d, 1, "")
	second := publish(t, d, 2, first)
	if err := errors.Join(d.Check(t.Context()), d.Retire(t.Context(), ref, first)); err != nil {
		t.Error(err)
	}
	if _, id, err := d.Read(t.Context(), ref, ""); err != nil || id != second {
		t.Errorf("read version %q, %v", id, err)
	}
	label(t, ssm.NewFromConfig(s.AWS(cfg.Conn.Region)), 1, "old")
	wantClass(t, "retiring without the right to unlabel", d.Retire(t.Context(), ref, first), backends.ErrDenied)
	s.DeleteKey(t, key)
	wantClass(t, "checking with a deleted key", d.Check(t.Context()), backends.ErrDenied)
}

// A mirror that was down is brought to the newest version as soon as it is back.
func TestServerMayComeAndGo(t *testing.T) {
	s := motoserver.Start(t)
	d := open(t, config(s.URL, "eu-central-1"))
	first := publish(t, d, 1, "")
	s.Kill()
	_, err := d.Publish(t.Context(), ref, write(2, first))
	wantClass(t, "publishing while AWS is away", err, backends.ErrUnavailable)
	s.Restart(t)
	second := publish(t, d, 2, first)
	if v, id, err := d.Read(t.Context(), ref, ""); err != nil || id != second || !v.Equal(write(2, "").Value) {
		t.Errorf("read %q, %v", id, err)
	}
}

// Something before AWS that quotes the request must not bring a value into a log, nor
// a part of one, however it is escaped.
func TestAnswersThatQuoteAValueAreNotPassedOn(t *testing.T) {
	for _, text := range []string{backendtest.Canary, "{{" + backendtest.Canary + "}}", "-----BEGIN\n" + backendtest.Canary + "\n", `a"b\` + backendtest.Canary} {
		for _, code := range []string{"ValidationException", "AccessDeniedException", "InternalServerError", "Odd"} {
			var echoed atomic.Bool
			echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				w.Header().Set("Content-Type", "application/x-amz-json-1.1")
				w.WriteHeader(http.StatusBadRequest)
				if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".PutParameter") {
					_, _ = io.WriteString(w, `{"__type":"ParameterNotFound","message":"none"}`)
					return
				}
				echoed.Store(strings.Contains(string(body), backendtest.Canary))
				_, _ = fmt.Fprintf(w, `{"__type":%q,"message":%q}`, code, "cannot take "+string(body))
			}))
			w := write(1, "")
			w.Value = backends.NewValue(map[string]string{"key": text})
			_, err := open(t, config(echo.URL, "eu-central-1")).Publish(t.Context(), ref, w)
			if err == nil || !echoed.Load() {
				t.Errorf("%s: got %v; the value was sent: %v", code, err, echoed.Load())
			}
			wantClass(t, code, err, backends.Class(err))
			echo.Close()
		}
	}
}
