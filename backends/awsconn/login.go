package awsconn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
)

const (
	// fileLife is how long what was read from credentials_file is used unasked.
	fileLife = time.Minute
	// renewBefore is how long before its end the session of a role is replaced, less a
	// random half, so that many do not return in step.
	renewBefore = 5 * time.Minute

	defaultSessionName = "keybroker"
)

// refusals are the codes with which AWS services refuse credentials, whatever is
// asked with them; from the "Common Error Types" of their API references.
var refusals = []string{
	"AuthFailure", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "IncompleteSignatureException",
	"InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignatureException", "InvalidToken", "RequestExpired",
	"SignatureDoesNotMatch", "TokenRefreshRequired", "UnrecognizedClientException",
}

// source finds the credentials that the configuration names.
func (c Config) source(ctx context.Context) (aws.CredentialsProvider, error) {
	switch {
	case c.AccessKeyID != "":
		return credentials.NewStaticCredentialsProvider(c.AccessKeyID.Reveal(), c.SecretAccessKey.Reveal(), c.SessionToken.Reveal()), nil
	case c.CredentialsFile != "":
		return &credentialsFile{path: c.CredentialsFile, now: time.Now}, nil
	}
	chain, err := config.LoadDefaultConfig(ctx, config.WithRegion(c.Region), config.WithSharedConfigProfile(c.Profile))
	if err != nil {
		return nil, fmt.Errorf("%w: finding credentials as the AWS SDKs do: %w", backends.ErrInvalid, err)
	}
	return chain.Credentials, nil
}

func (a AssumeRole) provider(conn aws.Config) aws.CredentialsProvider {
	if a.Endpoint != "" {
		conn.BaseEndpoint = aws.String(a.Endpoint)
	}
	return stscreds.NewAssumeRoleProvider(sts.NewFromConfig(conn), a.RoleARN, func(o *stscreds.AssumeRoleOptions) {
		o.RoleSessionName = defaultSessionName
		if a.SessionName != "" {
			o.RoleSessionName = a.SessionName
		}
		if a.ExternalID != "" {
			o.ExternalID = aws.String(a.ExternalID)
		}
		o.Duration = a.Duration // 0: the SDK's default
	})
}

// credentialsFile reads the section [default] of a file in the form of
// ~/.aws/credentials. Its errors quote nothing of the file.
type credentialsFile struct {
	path string
	now  func() time.Time
}

func (f *credentialsFile) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if _, err := os.Stat(f.path); err != nil { // may be written a moment later
		return aws.Credentials{}, fmt.Errorf("%w: reading credentials_file: %w", backends.ErrUnavailable, err)
	}
	shared, err := config.LoadSharedConfigProfile(ctx, "default", func(o *config.LoadSharedConfigOptions) {
		o.CredentialsFiles, o.ConfigFiles = []string{f.path}, []string{}
	})
	if err != nil || !shared.Credentials.HasKeys() {
		return aws.Credentials{}, fmt.Errorf("%w: credentials_file %s has no section [default] with "+
			"aws_access_key_id and aws_secret_access_key", backends.ErrUnavailable, f.path)
	}
	creds := shared.Credentials
	creds.CanExpire, creds.Expires = true, f.now().Add(fileLife)
	return creds, nil
}

// login gives out credentials and gets others when AWS refuses them: revoked,
// expired by another clock, replaced in a file.
type login struct {
	cache  *aws.CredentialsCache
	fixed  bool // there are no others to be had
	logger hclog.Logger
}

func newLogin(source aws.CredentialsProvider, logger hclog.Logger) *login {
	_, fixed := source.(credentials.StaticCredentialsProvider)
	cache, ok := source.(*aws.CredentialsCache) // the default chain's
	if !ok {
		cache = aws.NewCredentialsCache(source, func(o *aws.CredentialsCacheOptions) {
			if _, role := source.(*stscreds.AssumeRoleProvider); role {
				o.ExpiryWindow, o.ExpiryWindowJitterFrac = renewBefore, 0.5
			}
		})
	}
	return &login{cache: cache, fixed: fixed, logger: logger}
}

// Retrieve implements aws.CredentialsProvider. What goes wrong is about our
// credentials: ErrDenied, or ErrUnavailable where asking again may help, so that a
// role that does not exist never looks like a secret that does not.
func (l *login) Retrieve(ctx context.Context) (aws.Credentials, error) {
	creds, err := l.cache.Retrieve(ctx)
	if err == nil {
		return creds, nil
	}
	err = Fault(err)
	if !errors.Is(err, backends.ErrUnavailable) && !errors.Is(err, backends.ErrDenied) {
		err = fmt.Errorf("%w: %v", backends.ErrDenied, err) // of one class only
	}
	return aws.Credentials{}, &loginError{err}
}

// loginError is found in the SDK's errors, which say a lot around it.
type loginError struct{ cause error }

func (e *loginError) Error() string { return "getting credentials: " + e.cause.Error() }
func (e *loginError) Unwrap() error { return e.cause }

// retried are the codes after which a request is sent again with other credentials.
// It had no effect.
func (l *login) retried() []string {
	if l.fixed {
		return nil
	}
	return refusals
}

// watch is an option of the SDK's clients: credentials that are refused are
// forgotten, unless another call has replaced them already.
func (l *login) watch(stack *middleware.Stack) error {
	if l.fixed {
		return nil
	}
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("KeybrokerRenewCredentials", l.attempt), "Retry", middleware.After)
}

func (l *login) attempt(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
	used, err := l.Retrieve(ctx) // what the request is signed with
	if err != nil {
		return middleware.FinalizeOutput{}, middleware.Metadata{}, err
	}
	out, meta, err := next.HandleFinalize(ctx, in)
	var answer smithy.APIError
	if errors.As(err, &answer) && slices.Contains(refusals, answer.ErrorCode()) && l.forget(ctx, used) {
		l.logger.Info("AWS refuses the credentials, getting others", "code", answer.ErrorCode(), "source", used.Source)
	}
	return out, meta, err
}

func (l *login) forget(ctx context.Context, used aws.Credentials) bool {
	now, err := l.cache.Retrieve(ctx)
	if err != nil || now.AccessKeyID != used.AccessKeyID || now.SecretAccessKey != used.SecretAccessKey || now.SessionToken != used.SessionToken {
		return false
	}
	l.cache.Invalidate()
	return true
}

// LoginFailed tells whether a client's error is that there were no credentials to
// sign the request with, which was not sent then.
func LoginFailed(err error) bool {
	var login *loginError
	return errors.As(err, &login)
}
