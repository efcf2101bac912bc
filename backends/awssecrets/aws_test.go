package awssecrets_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awssecrets"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

// write is of a token of its own for each n.
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
func here(t *testing.T, change func(*awssecrets.Config)) (*awssecrets.Driver, *secretsmanager.Client) {
	t.Helper()
	s := motoserver.Shared(t)
	region := s.Region()
	cfg := config(s.URL, region)
	if change != nil {
		change(&cfg)
	}
	return open(t, cfg), secretsmanager.NewFromConfig(s.AWS(region))
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

// wantStages asks AWS itself.
func wantStages(t *testing.T, client *secretsmanager.Client, want map[backends.VersionID][]string) {
	t.Helper()
	got, err := client.DescribeSecret(t.Context(), &secretsmanager.DescribeSecretInput{SecretId: aws.String(name)})
	if err != nil {
		t.Fatal(err)
	}
	for id, stages := range want {
		if have := slices.Sorted(slices.Values(got.VersionIdsToStages[string(id)])); !slices.Equal(have, stages) {
			t.Errorf("version %s has the stages %q, want %q", id, have, stages)
		}
	}
}

func TestStagesAreAsAWSMeansThem(t *testing.T) {
	d, client := here(t, nil)
	first := publish(t, d, 1, "")
	wantStages(t, client, map[backends.VersionID][]string{first: {"AWSCURRENT"}})
	second, err := d.Stage(t.Context(), ref, write(2, first))
	if err != nil {
		t.Fatal(err)
	}
	wantStages(t, client, map[backends.VersionID][]string{first: {"AWSCURRENT"}, second: {"AWSPENDING"}})
	if err := d.Promote(t.Context(), ref, second, first); err != nil {
		t.Fatal(err)
	}
	wantStages(t, client, map[backends.VersionID][]string{first: {"AWSPREVIOUS"}, second: {"AWSCURRENT", "AWSPENDING"}})
	third := publish(t, d, 3, second)
	wantStages(t, client, map[backends.VersionID][]string{first: nil, second: {"AWSPREVIOUS"}, third: {"AWSCURRENT", "AWSPENDING"}})

	// A stage of the consumers' own must not lead to a dead key either.
	_, err = client.UpdateSecretVersionStage(t.Context(), &secretsmanager.UpdateSecretVersionStageInput{
		SecretId: aws.String(name), VersionStage: aws.String("blue"), MoveToVersionId: aws.String(string(second)),
	})
	if err != nil {
		t.Fatal(err)
	}
	desc, err := d.Describe(t.Context(), ref)
	if err != nil || !slices.Equal(desc.Versions[1].Stages, []string{"AWSPREVIOUS", "blue"}) {
		t.Errorf("described as %+v, %v", desc, err)
	}
	if err := d.Retire(t.Context(), ref, second); err != nil {
		t.Fatal(err)
	}
	wantStages(t, client, map[backends.VersionID][]string{second: nil, third: {"AWSCURRENT", "AWSPENDING"}})

	// Who loses leaves no AWSPENDING behind, which would block AWS's own rotation.
	_, err = d.Publish(t.Context(), ref, write(4, second))
	wantClass(t, "publishing over an old version", err, backends.ErrConflict)
	wantStages(t, client, map[backends.VersionID][]string{third: {"AWSCURRENT", "AWSPENDING"}})
}

// Applications that talk to AWS directly see what the broker publishes.
func TestAWSsOwnClientReadsWhatWasPublished(t *testing.T) {
	s := motoserver.Shared(t)
	region, replica := s.Region(), s.Region()
	cfg := config(s.URL, region)
	cfg.KMSKeyID, cfg.Tags, cfg.Replicas = "alias/secrets", map[string]string{"team": "growth"}, []string{replica}
	id := publish(t, open(t, cfg), 3, "")

	client := secretsmanager.NewFromConfig(s.AWS(region))
	value, err := client.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: aws.String(name)})
	if err != nil || *value.SecretString != `{"key":"`+backendtest.Canary+`-3"}` || *value.VersionId != string(id) {
		t.Errorf("another value than was published, or %v", err)
	}
	got, err := client.DescribeSecret(t.Context(), &secretsmanager.DescribeSecretInput{SecretId: aws.String(name)})
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{}
	for _, tag := range got.Tags {
		tags[*tag.Key] = *tag.Value
	}
	for key, want := range map[string]string{
		"team": "growth", "keybroker-version-id": string(id), "keybroker-version": "3", "keybroker-generation": "30",
	} {
		if tags[key] != want {
			t.Errorf("tag %s is %q, want %q", key, tags[key], want)
		}
	}
	if aws.ToString(got.KmsKeyId) != "alias/secrets" || len(got.ReplicationStatus) != 1 || *got.ReplicationStatus[0].Region != replica {
		t.Errorf("it is encrypted under %q and replicated to %v", aws.ToString(got.KmsKeyId), got.ReplicationStatus)
	}

	// The replica can be read, and nothing else.
	there := open(t, config(s.URL, replica))
	if _, at, err := there.Read(t.Context(), ref, ""); err != nil || at != id {
		t.Errorf("reading the replica: %q, %v", at, err)
	}
	_, err = there.Publish(t.Context(), ref, write(4, id))
	wantClass(t, "publishing to a replica", err, backends.ErrUnsupported)
	_, err = there.Stage(t.Context(), ref, write(4, id))
	wantClass(t, "staging in a replica", err, backends.ErrUnsupported)
	wantClass(t, "promoting in a replica", there.Promote(t.Context(), ref, "x", id), backends.ErrUnsupported)
}

func TestWhatIsScheduledForDeletionCanBeRestored(t *testing.T) {
	d, client := here(t, nil)
	first := publish(t, d, 1, "")
	second := publish(t, d, 2, first)
	if _, err := client.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: aws.String(name)}); err != nil {
		t.Fatal(err)
	}
	_, _, err := d.Read(t.Context(), ref, "")
	wantClass(t, "reading", err, backends.ErrNotFound)
	desc, err := d.Describe(t.Context(), ref)
	if err != nil || desc.Current != "" || len(desc.Versions) != 2 || !desc.Versions[0].Gone || !desc.Versions[1].Gone {
		t.Errorf("described as %+v, %v", desc, err)
	}
	if names, _, err := d.List(t.Context(), ref.Tenant, "", 10); err != nil || len(names) > 0 {
		t.Errorf("listed %q, %v", names, err)
	}
	_, publishErr := d.Publish(t.Context(), ref, write(3, ""))
	_, stageErr := d.Stage(t.Context(), ref, write(3, second))
	for doing, err := range map[string]error{
		"publishing": publishErr, "staging": stageErr, "promoting": d.Promote(t.Context(), ref, first, second),
	} {
		wantClass(t, doing, err, backends.ErrConflict)
		if !strings.Contains(fmt.Sprint(err), "restore-secret") || !strings.Contains(fmt.Sprint(err), "--secret-id "+name) {
			t.Errorf("%s: %v does not say how to restore it", doing, err)
		}
	}
	// AWSPREVIOUS would be back with the secret.
	err = d.Retire(t.Context(), ref, first)
	wantClass(t, "retiring", err, backends.ErrUnavailable)
	if wait, ok := backends.RetryAfter(err); !ok || wait < time.Second {
		t.Errorf("retiring again at once, after %s, %t, mends nothing", wait, ok)
	}
	if err := d.Retire(t.Context(), ref, "without-a-stage"); err != nil {
		t.Errorf("retiring what has no stage: %v", err)
	}
	if _, err := client.RestoreSecret(t.Context(), &secretsmanager.RestoreSecretInput{SecretId: aws.String(name)}); err != nil {
		t.Fatal(err)
	}
	if err := d.Retire(t.Context(), ref, first); err != nil {
		t.Errorf("retiring what is restored: %v", err)
	}
	wantStages(t, client, map[backends.VersionID][]string{first: nil, second: {"AWSCURRENT", "AWSPENDING"}})
	publish(t, d, 3, second)
}

// Two cannot rotate one secret.
func TestWhatAWSRotatesIsLeftToIt(t *testing.T) {
	d, client := here(t, nil)
	first := publish(t, d, 1, "")
	second := publish(t, d, 2, first)
	staged, err := d.Stage(t.Context(), ref, write(3, second))
	if err != nil {
		t.Fatal(err)
	}
	// moto has no such function and says so, but turns the rotation on all the same.
	_, _ = client.RotateSecret(t.Context(), &secretsmanager.RotateSecretInput{
		SecretId: aws.String(name), RotationRules: &types.RotationRulesType{AutomaticallyAfterDays: aws.Int64(30)},
		RotationLambdaARN: aws.String("arn:aws:lambda:eu-central-1:123456789012:function:rotate"),
	})
	desc, err := d.Describe(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	_, publishErr := d.Publish(t.Context(), ref, write(4, desc.Current))
	_, stageErr := d.Stage(t.Context(), ref, write(4, desc.Current))
	for doing, err := range map[string]error{
		"publishing": publishErr, "staging": stageErr, "promoting": d.Promote(t.Context(), ref, staged, desc.Current),
	} {
		wantClass(t, doing, err, backends.ErrConflict)
		if mend := "cancel-rotate-secret --region "; !strings.Contains(fmt.Sprint(err), mend) || !strings.Contains(fmt.Sprint(err), "--secret-id "+name) {
			t.Errorf("%s: %v does not say how to turn it off", doing, err)
		}
	}
	// It is read as ever, and no stage is left on a dead key.
	if _, _, err := d.Read(t.Context(), ref, second); err != nil {
		t.Errorf("reading: %v", err)
	}
	if err := d.Retire(t.Context(), ref, first); err != nil {
		t.Errorf("retiring: %v", err)
	}
	if _, err := client.CancelRotateSecret(t.Context(), &secretsmanager.CancelRotateSecretInput{SecretId: aws.String(name)}); err != nil {
		t.Fatal(err)
	}
	publish(t, d, 4, desc.Current)
}

func TestNamesLikeARNsAreUsedAndNotMade(t *testing.T) {
	d, client := here(t, nil)
	secret := backends.Ref{Tenant: ref.Tenant, Name: "db-master"}
	_, err := d.Publish(t.Context(), secret, write(1, ""))
	wantClass(t, "making it", err, backends.ErrInvalid)
	wantClass(t, "its name", config("", "").CheckName(secret.Name), backends.ErrUnsupported)
	for _, other := range []string{"db-main", "db-masters", "db_master", "db/master"} {
		if err := config("", "").CheckName(other); err != nil {
			t.Error(err)
		}
	}
	made, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
		Name: aws.String("keybroker/" + secret.Name), SecretString: aws.String("{}"),
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := d.Publish(t.Context(), secret, write(1, backends.VersionID(*made.VersionId)))
	if err != nil {
		t.Fatal(err)
	}
	if v, at, err := d.Read(t.Context(), secret, ""); err != nil || at != id || !v.Equal(write(1, "").Value) {
		t.Errorf("read version %q, %v", at, err)
	}
}

// A secret may be there without any value, made by somebody's Terraform.
func TestEmptySecretTakesItsFirstVersion(t *testing.T) {
	d, client := here(t, nil)
	if _, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String(name)}); err != nil {
		t.Fatal(err)
	}
	_, _, err := d.Read(t.Context(), ref, "")
	wantClass(t, "reading", err, backends.ErrNotFound)
	_, err = d.Stage(t.Context(), ref, write(1, ""))
	wantClass(t, "staging", err, backends.ErrUnsupported)
	desc, err := d.Describe(t.Context(), ref)
	if err != nil || desc.Current != "" || len(desc.Versions) > 0 {
		t.Errorf("described as %+v, %v", desc, err)
	}
	first := publish(t, d, 1, "")
	publish(t, d, 2, first)
}

func TestOneTokenIsOneVersion(t *testing.T) {
	d, _ := here(t, nil)
	first := publish(t, d, 1, "")
	if again := publish(t, d, 1, ""); again != first || len(first) != 36 {
		t.Errorf("published as %q, then as %q", first, again)
	}
	w := write(1, "")
	w.Value = write(9, "").Value
	_, err := d.Publish(t.Context(), ref, w)
	wantClass(t, "another value under a token that was used", err, backends.ErrConflict)
	second := publish(t, d, 2, first)
	if again := publish(t, d, 2, first); again != second {
		t.Errorf("published as %q, then as %q", second, again)
	}
	if desc, err := d.Describe(t.Context(), ref); err != nil || len(desc.Versions) != 2 {
		t.Errorf("described as %+v, %v", desc, err)
	}
}

func TestVersionsPerDay(t *testing.T) {
	d, _ := here(t, func(c *awssecrets.Config) { c.VersionsPerDay = 3 })
	id := backends.VersionID("")
	for n := range 3 {
		id = publish(t, d, n, id)
	}
	_, publishErr := d.Publish(t.Context(), ref, write(3, id))
	_, stageErr := d.Stage(t.Context(), ref, write(3, id))
	for doing, err := range map[string]error{"publishing": publishErr, "staging": stageErr} {
		wantClass(t, doing, err, backends.ErrUnavailable)
		if wait, ok := backends.RetryAfter(err); !ok || wait < 23*time.Hour || wait > 24*time.Hour {
			t.Errorf("%s: wait %s, %v", doing, wait, ok)
		}
	}
	if again := publish(t, d, 2, id); again != id {
		t.Errorf("what was written already is %q, want %q", again, id)
	}
	w := write(3, id)
	w.Urgent = true
	if _, err := d.Publish(t.Context(), ref, w); err != nil {
		t.Errorf("in an emergency: %v", err)
	}
}

func TestOtherLayoutsAreToldApart(t *testing.T) {
	s := motoserver.Shared(t)
	region := s.Region()
	for _, wrote := range layouts {
		cfg := config(s.URL, region)
		cfg.Layout = wrote
		secret := backends.Ref{Tenant: ref.Tenant, Name: wrote}
		w := write(1, "")
		if wrote != "json" {
			w.Value = backends.NewValue(map[string]string{"value": backendtest.Canary})
		}
		if _, err := open(t, cfg).Publish(t.Context(), secret, w); err != nil {
			t.Fatal(err)
		}
		for _, reads := range layouts {
			cfg.Layout = reads
			_, _, err := open(t, cfg).Read(t.Context(), secret, "")
			if fits := reads == wrote || reads == "string" && wrote == "json"; fits && err != nil {
				t.Errorf("%s, read as %s: %v", wrote, reads, err)
			} else if !fits {
				wantClass(t, wrote+", read as "+reads, err, backends.ErrInvalid)
			}
		}
	}
}

func TestFieldsThatAreNoStringsAreGivenAsJSON(t *testing.T) {
	d, client := here(t, nil)
	_, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
		Name: aws.String(name), SecretString: aws.String(`{"port": 5432, "big": 123456789012345678, "on": true, "none": null, "list": ["a"], "text": "5432"}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := d.Read(t.Context(), ref, "")
	if err != nil {
		t.Fatal(err)
	}
	want := backends.NewValue(map[string]string{
		"port": "5432", "big": "123456789012345678", "on": "true", "none": "null", "list": `["a"]`, "text": "5432",
	})
	if !got.Equal(want) {
		t.Errorf("read %v", got.Reveal()) // made up above
	}
}

func TestListReadsAheadAndLeavesForeignNamesOut(t *testing.T) {
	s := motoserver.Shared(t)
	region := s.Region()
	client := secretsmanager.NewFromConfig(s.AWS(region))
	var want []string
	for i := range 105 {
		want = append(want, fmt.Sprintf("many/%03d", i))
	}
	for _, n := range slices.Concat([]string{"outside", "keybroker/sys/x", "keybroker/-dash", "keybroker/plus+", "keybrokerx"}, want) {
		if strings.HasPrefix(n, "many/") {
			n = "keybroker/" + n
		}
		if _, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: &n, SecretString: aws.String("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	proxy := faultproxy.New(t, s.URL)
	d := open(t, config(proxy.URL, region))
	list := func(after string, want []string) string {
		t.Helper()
		names, next, err := d.List(t.Context(), ref.Tenant, after, 20)
		if err != nil || !slices.Equal(names, want) {
			t.Fatalf("after %q: %q, %v, want %q", after, names, err, want)
		}
		return next
	}
	after := ""
	for i := 0; i < len(want); i += 20 {
		after = list(after, want[i:min(i+20, len(want))])
	}
	if n := proxy.Requests(); after != "" || n != 2 {
		t.Errorf("six pages took %d requests, want those of one pass: 2; then comes %q", n, after)
	}
	// What was read ahead is not used once a secret was made here.
	after = list("", want[:20])
	if _, err := d.Publish(t.Context(), backends.Ref{Tenant: ref.Tenant, Name: "many/020-new"}, write(1, "")); err != nil {
		t.Fatal(err)
	}
	list(after, slices.Concat([]string{want[20], "many/020-new"}, want[21:39]))
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
	if v, _, err := d.Read(t.Context(), ref, first); err != nil || !v.Equal(write(1, "").Value) {
		t.Errorf("reading what was there before: %v", err)
	}
}

// Something before AWS that quotes the request must not bring a value into a log.
func TestAnswersThatQuoteAValueAreNotPassedOn(t *testing.T) {
	s := motoserver.Shared(t)
	region := s.Region()
	publish(t, open(t, config(s.URL, region)), 1, "")
	for _, code := range []string{"ValidationException", "AccessDeniedException", "InternalServiceError", "Odd"} {
		var echoed atomic.Bool
		echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			if !strings.Contains(string(body), "SecretString") {
				w.WriteHeader(http.StatusNotFound)
				_, _ = io.WriteString(w, `{"__type":"ResourceNotFoundException","Message":"none"}`)
				return
			}
			echoed.Store(strings.Contains(string(body), backendtest.Canary))
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"__type":%q,"Message":%q}`, code, "cannot take "+string(body))
		}))
		_, err := open(t, config(echo.URL, region)).Publish(t.Context(), ref, write(2, ""))
		if err == nil || !echoed.Load() {
			t.Errorf("%s: got %v; the value was sent: %v", code, err, echoed.Load())
		}
		wantClass(t, code, err, backends.Class(err))
		echo.Close()
	}
}
