package awsconn_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

const canary = "canary-71f3ab"

// load makes a connection for the test. The log is returned for what should be in
// it; what must not be is looked for here.
func load(t *testing.T, cfg awsconn.Config) (aws.Config, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	conn, err := awsconn.Load(t.Context(), cfg, hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Trace}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		awsconn.CloseIdle(conn)
		if strings.Contains(log.String(), canary) {
			t.Error("the log gives a secret away")
		}
	})
	return conn, log
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func keyed(endpoint string, key motoserver.Key) awsconn.Config {
	return awsconn.Config{
		Region: "eu-central-1", Endpoint: endpoint,
		AccessKeyID: backends.SecretString(key.ID), SecretAccessKey: backends.SecretString(key.Secret),
	}
}

var anyKey = motoserver.Key{ID: "AKIAKEYBROKERTESTING", Secret: canary}

// list is a call that needs credentials and nothing else.
func list(ctx context.Context, conn aws.Config) error {
	_, err := secretsmanager.NewFromConfig(conn).ListSecrets(ctx, &secretsmanager.ListSecretsInput{})
	return awsconn.Fault(err)
}

func wantClass(t *testing.T, doing string, err, class error) {
	t.Helper()
	if got := backends.Class(err); !errors.Is(got, class) {
		t.Errorf("%s: got %v, want an error of class %v", doing, err, class)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), canary) {
		t.Errorf("%s: the error gives a secret away", doing)
	}
}

func TestKeysAreUsedAsTheyAre(t *testing.T) {
	s := motoserver.SharedGuarded(t)
	key := s.User(t, motoserver.Everything)
	conn, _ := load(t, keyed(s.URL, key))
	if err := list(t.Context(), conn); err != nil {
		t.Error(err)
	}
	s.DeleteKey(t, key)
	wantClass(t, "with a deleted key", list(t.Context(), conn), backends.ErrDenied)
	wrong, _ := load(t, keyed(s.URL, motoserver.Key{ID: key.ID, Secret: canary}))
	wantClass(t, "with a wrong key", list(t.Context(), wrong), backends.ErrDenied)
	powerless, _ := load(t, keyed(s.URL, s.User(t, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:*","Resource":"*"}]}`)))
	err := list(t.Context(), powerless)
	wantClass(t, "without the right", err, backends.ErrDenied)
	if !strings.Contains(fmt.Sprint(err), "secretsmanager:ListSecrets") {
		t.Errorf("%v does not say which right is missing", err)
	}
}

// The file is replaced and the old key revoked: no call fails.
func TestCredentialsFileIsReadAgain(t *testing.T) {
	s := motoserver.SharedGuarded(t)
	file := filepath.Join(t.TempDir(), "credentials")
	conn, log := load(t, awsconn.Config{Region: "eu-central-1", Endpoint: s.URL, CredentialsFile: file})
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	section := func(key motoserver.Key) string {
		return "[default]\naws_access_key_id = " + key.ID + "\naws_secret_access_key = " + key.Secret + "\n"
	}
	wantClass(t, "without the file", list(t.Context(), conn), backends.ErrUnavailable) // there may be one later
	put("[default]\naws_access_key_id = " + canary + "\n")
	wantClass(t, "with half a key", list(t.Context(), conn), backends.ErrUnavailable)
	put(canary)
	wantClass(t, "with no such file", list(t.Context(), conn), backends.ErrUnavailable)
	put(section(motoserver.Key{ID: canary, Secret: canary}))
	wantClass(t, "with another's key", list(t.Context(), conn), backends.ErrDenied)

	first := s.User(t, motoserver.Everything)
	put(section(first))
	if err := list(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	second := s.NextKey(t, first)
	put(section(second))
	s.DeleteKey(t, first)
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			if err := list(t.Context(), conn); err != nil {
				t.Errorf("after the key was replaced: %v", err)
			}
		})
	}
	calls.Wait()
	if !strings.Contains(log.String(), "getting others") {
		t.Errorf("the log says nothing of it: %s", log)
	}
}

func TestRoleIsAssumedAgainWhenItsSessionEnds(t *testing.T) {
	s := motoserver.SharedGuarded(t)
	cfg := keyed(s.URL, s.User(t, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}]}`))
	direct, _ := load(t, cfg)
	wantClass(t, "without the role", list(t.Context(), direct), backends.ErrDenied)

	sts, logins := counting(t, s.URL)
	cfg.AssumeRole = &awsconn.AssumeRole{RoleARN: s.Role(t, motoserver.Everything), Endpoint: sts, ExternalID: "x"}
	conn, _ := load(t, cfg)
	for range 3 {
		if err := list(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
	}
	if n := logins.Load(); n != 1 {
		t.Errorf("three calls assumed the role %d times", n)
	}
	s.EndSessions(t)
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			if err := list(t.Context(), conn); err != nil {
				t.Errorf("after the session has ended: %v", err)
			}
		})
	}
	calls.Wait()
	if n := logins.Load(); n < 2 || n > 9 {
		t.Errorf("the role was assumed %d times in all", n)
	}

	// Neither a right that is missing nor a role that is none looks like a missing secret.
	cfg.AssumeRole = &awsconn.AssumeRole{RoleARN: s.Role(t, motoserver.Everything), Endpoint: answering(t, 404, `<ErrorResponse><Error><Code>ResourceNotFoundException</Code><Message>none</Message></Error></ErrorResponse>`)}
	lost, _ := load(t, cfg)
	wantClass(t, "with a role that is not found", list(t.Context(), lost), backends.ErrDenied)
	cfg.AssumeRole.Endpoint = answering(t, 503, "")
	away, _ := load(t, cfg)
	wantClass(t, "while STS is away", list(t.Context(), away), backends.ErrUnavailable)
}

// counting stands before a server and counts requests.
func counting(t *testing.T, target string) (string, *atomic.Int32) {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // signed
		},
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	var n atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, &n
}

// answering is a server that always says the same.
func answering(t *testing.T, status int, text string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// Credentials may come from the environment; where to use them never does.
func TestDefaultChainGivesCredentialsOnly(t *testing.T) {
	s := motoserver.SharedGuarded(t)
	key, none := s.User(t, motoserver.Everything), filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": key.ID, "AWS_SECRET_ACCESS_KEY": key.Secret, "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_REGION": "us-gov-west-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://127.0.0.1:1",
		"AWS_USE_FIPS_ENDPOINT": "true", "AWS_MAX_ATTEMPTS": "9", "AWS_RETRY_MODE": "standard",
	} {
		t.Setenv(name, value)
	}
	conn, _ := load(t, awsconn.Config{Region: "eu-central-1", Endpoint: s.URL})
	if err := list(t.Context(), conn); err != nil {
		t.Error(err)
	}
	// Without an endpoint of its own, the block means AWS.
	conn, _ = load(t, awsconn.Config{Region: "eu-central-1"})
	var asked string
	conn.HTTPClient = doer(func(r *http.Request) (*http.Response, error) {
		asked = r.URL.String()
		return nil, errors.New("not in a test")
	})
	wantClass(t, "without a network", list(t.Context(), conn), backends.ErrUnavailable)
	if asked != "https://secretsmanager.eu-central-1.amazonaws.com/" {
		t.Errorf("asked %s", asked)
	}
	// A block with keys of its own takes nothing at all.
	t.Setenv("AWS_PROFILE", "nobody")
	conn, _ = load(t, keyed(s.URL, key))
	if err := list(t.Context(), conn); err != nil {
		t.Error(err)
	}
}

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

func TestAnswersAreClassified(t *testing.T) {
	body := func(code, message string) string { return fmt.Sprintf(`{"__type":%q,"Message":%q}`, code, message) }
	tests := []struct {
		status int
		text   string
		class  error
		sent   int32
	}{
		{400, body("ResourceNotFoundException", "none"), backends.ErrNotFound, 1},
		{400, body("ParameterNotFound", ""), backends.ErrNotFound, 1},
		{400, body("com.amazonaws.kms#NotFoundException", "none"), backends.ErrNotFound, 1},
		{400, body("AccessDeniedException", "User: arn:aws:iam::1:user/x is not authorized"), backends.ErrDenied, 1},
		{400, body("UnrecognizedClientException", "The security token included in the request is invalid."), backends.ErrDenied, 1},
		{400, body("ExpiredTokenException", "expired"), backends.ErrDenied, 1},
		{400, body("ResourceExistsException", "already"), backends.ErrConflict, 1},
		{400, body("InvalidRequestException", "marked for deletion"), backends.ErrConflict, 1},
		{400, body("InvalidParameterException", "wrong"), backends.ErrInvalid, 1},
		{400, body("SomethingNewException", "new"), backends.ErrInvalid, 1},
		{400, body("UnknownOperationException", ""), backends.ErrUnsupported, 1},
		{400, body("ThrottlingException", "Rate exceeded"), backends.ErrUnavailable, 2},
		{400, body("LimitExceededException", "quota"), backends.ErrUnavailable, 2},
		{400, body("TooManyUpdates", ""), backends.ErrUnavailable, 1},
		{400, body("EncryptionFailure", "the key is disabled"), backends.ErrUnavailable, 1},
		{400, body("InvalidKeyId", "the key is pending deletion"), backends.ErrUnavailable, 1},
		{500, body("InternalServiceError", ""), backends.ErrUnavailable, 2},
		{500, body("SomethingNewException", "new"), backends.ErrUnavailable, 2},
		// What stands before AWS says nothing final, but for a refusal.
		{400, `<html>bad request</html>`, backends.ErrUnavailable, 1},
		{403, `<html>forbidden</html>`, backends.ErrDenied, 1},
		{404, `<html>not found</html>`, backends.ErrUnavailable, 1},
		{404, ``, backends.ErrUnavailable, 1},
		{413, `<html>too large</html>`, backends.ErrInvalid, 1},
		{429, ``, backends.ErrUnavailable, 1},
		{502, `<html>bad gateway</html>`, backends.ErrUnavailable, 2},
		{503, ``, backends.ErrUnavailable, 2},
		{307, ``, backends.ErrUnavailable, 1},
		{200, `no JSON`, backends.ErrUnavailable, 1},
		{200, `{"ARN":`, backends.ErrUnavailable, 1},
		// What quotes the request must not bring a value into the log.
		{400, body("ValidationException", "Value '"+canary+"\" é' at 'secretString'"), backends.ErrInvalid, 1},
		{400, body("AccessDeniedException", `cannot handle {\"SecretString\":\"`+canary+`\\\" é\"}`), backends.ErrDenied, 1},
		{400, body(canary, ""), backends.ErrInvalid, 1},
		{500, `cannot handle ` + canary, backends.ErrUnavailable, 2},
	}
	sent := backends.NewValue(map[string]string{"key": canary + `" é`, "code": canary})
	for _, tt := range tests {
		var requests atomic.Int32
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			w.Header().Set("X-Amzn-Requestid", "r-1")
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.text)
		}))
		conn, _ := load(t, keyed(srv.URL, anyKey))
		_, err := secretsmanager.NewFromConfig(conn).PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{
			SecretId: aws.String("x"), SecretString: aws.String(canary), ClientRequestToken: aws.String("t"),
		})
		err = awsconn.Fault(err, sent)
		wantClass(t, fmt.Sprintf("%d %s", tt.status, tt.text), err, tt.class)
		if strings.ContainsAny(fmt.Sprint(err), "\n<") {
			t.Errorf("%d: the error is not one plain line: %v", tt.status, err)
		}
		if n := requests.Load(); n != tt.sent {
			t.Errorf("%d %s: the request was sent %d times, want %d", tt.status, tt.text, n, tt.sent)
		}
		srv.Close()
	}
}

// Whoever is told to wait is not asked again at once by us.
func TestAnswersThatSayToWait(t *testing.T) {
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, tt := range []struct {
		status       int
		header, text string
		body         string
		min, max     time.Duration // -1: nothing is said
		sent         int32
	}{
		{429, "Retry-After", "7", "<html>", 7 * time.Second, 7 * time.Second, 1},
		{503, "Retry-After", "0", "<html>", 0, 0, 1},
		{503, "Retry-After", "7", "<html>", 7 * time.Second, 7 * time.Second, 1},
		{400, "Retry-After", "7", `{"__type":"ThrottlingException"}`, 7 * time.Second, 7 * time.Second, 1},
		{400, "X-Amz-Retry-After", "1500", `{"__type":"ThrottlingException"}`, 1500 * time.Millisecond, 1500 * time.Millisecond, 1},
		{503, "Retry-After", in(time.Hour), "<html>", 59 * time.Minute, time.Hour, 1},
		{503, "Retry-After", in(-time.Hour), "<html>", 0, 0, 1},
		{503, "Retry-After", "-1", "<html>", -1, -1, 2},
		{503, "Retry-After", canary, "<html>", -1, -1, 2},
		{503, "Retry-After", "99999999999999999999", "<html>", -1, -1, 2},
		{503, "X-Other", "7", "<html>", -1, -1, 2},
		{400, "Retry-After", "7", `{"__type":"AccessDeniedException"}`, -1, -1, 1}, // waiting mends nothing
	} {
		var requests atomic.Int32
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			w.Header().Set(tt.header, tt.text)
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		}))
		conn, _ := load(t, keyed(srv.URL, anyKey))
		err := list(t.Context(), conn)
		doing := fmt.Sprintf("%d, %s: %s", tt.status, tt.header, tt.text)
		wantClass(t, doing, err, backends.Class(err))
		wait, ok := backends.RetryAfter(err)
		if ok != (tt.min >= 0) || ok && (wait < tt.min || wait > tt.max) {
			t.Errorf("%s: the error says %s, %t", doing, wait, ok)
		}
		if n := requests.Load(); n != tt.sent {
			t.Errorf("%s: the request was sent %d times, want %d", doing, n, tt.sent)
		}
		srv.Close()
	}
	// What STS says is passed on as well.
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(sts.Close)
	cfg := keyed("http://127.0.0.1:1", anyKey)
	cfg.AssumeRole = &awsconn.AssumeRole{RoleARN: "arn:aws:iam::123456789012:role/x", Endpoint: sts.URL}
	conn, _ := load(t, cfg)
	err := list(t.Context(), conn)
	wantClass(t, "while STS is away", err, backends.ErrUnavailable)
	if wait, ok := backends.RetryAfter(err); !ok || wait != 7*time.Second {
		t.Errorf("while STS is away the error says %s, %t", wait, ok)
	}
}

// The other services that a connection is for speak of what is not there in their
// own ways.
func TestServicesAgreeOnNotFound(t *testing.T) {
	s := motoserver.Shared(t)
	conn, _ := load(t, keyed(s.URL, anyKey))
	_, err := ssm.NewFromConfig(conn).GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("/none")})
	wantClass(t, "parameter", awsconn.Fault(err), backends.ErrNotFound)
	_, err = secretsmanager.NewFromConfig(conn).GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: aws.String("none")})
	wantClass(t, "secret", awsconn.Fault(err), backends.ErrNotFound)
	_, err = kms.NewFromConfig(conn).DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String("00000000-0000-4000-8000-000000000000")})
	wantClass(t, "key", awsconn.Fault(err), backends.ErrNotFound)
	if awsconn.Fault(nil) != nil {
		t.Error("success is an error")
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	before := goleak.IgnoreCurrent()
	arrived := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server see the client leave
		close(arrived)
		<-r.Context().Done()
	}))
	conn, _ := load(t, keyed(srv.URL, anyKey))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- list(ctx, conn) }()
	<-arrived
	cancel()
	err := <-done
	wantClass(t, "cancelled", err, backends.ErrUnavailable)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want it to be context.Canceled too", err)
	}
	srv.Close()
	wantClass(t, "gone", list(t.Context(), conn), backends.ErrUnavailable)
	awsconn.CloseIdle(conn)
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	s := motoserver.Shared(t)
	to, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = &http.Transport{DisableKeepAlives: true}
	srv := httptest.NewUnstartedServer(proxy)
	srv.Config.ErrorLog = hclog.NewNullLogger().StandardLogger(nil)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	untrusting, _ := load(t, keyed(srv.URL, anyKey))
	wantClass(t, "without its CA", list(t.Context(), untrusting), backends.ErrUnavailable)

	cfg := keyed(srv.URL, anyKey)
	cfg.CACertFile = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(cfg.CACertFile, block, 0o600); err != nil {
		t.Fatal(err)
	}
	trusting, _ := load(t, cfg)
	if err := list(t.Context(), trusting); err != nil {
		t.Errorf("with its CA: %v", err)
	}
	if err := os.WriteFile(cfg.CACertFile, []byte(canary), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = awsconn.Load(t.Context(), cfg, hclog.NewNullLogger())
	wantClass(t, "with no CA in the file", err, backends.ErrInvalid)
}

// A dialer that is given decides about every connection, to STS as well. A login that
// it stops has sent nothing.
func TestLoadViaADialer(t *testing.T) {
	t.Parallel()
	moto := motoserver.Shared(t)
	refused := errors.New("refused by the dialer")
	var dialled atomic.Int64
	dialer := &net.Dialer{ControlContext: func(context.Context, string, string, syscall.RawConn) error {
		dialled.Add(1)
		return refused
	}}
	plain := keyed(moto.URL, anyKey)
	assumed := plain
	assumed.AssumeRole = &awsconn.AssumeRole{RoleARN: role, Endpoint: moto.URL}
	for login, cfg := range map[bool]awsconn.Config{false: plain, true: assumed} {
		conn, err := awsconn.LoadVia(t.Context(), cfg, hclog.NewNullLogger(), dialer)
		if err != nil {
			t.Fatal(err)
		}
		before := dialled.Load()
		_, err = kms.NewFromConfig(conn).ListKeys(t.Context(), &kms.ListKeysInput{})
		if !errors.Is(err, refused) || dialled.Load() == before || awsconn.LoginFailed(err) != login {
			t.Errorf("with a login of its own %t: %v, which is one of the login: %t", login, err, awsconn.LoginFailed(err))
		}
		awsconn.CloseIdle(conn)
	}
}
