package awsiam

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/keybroker/keybroker/backends/awsconn"
)

// Codes that mean more here than their class (IAM API reference, CreateAccessKey).
const (
	codeNone  = "NoSuchEntity"  // no such user, key or policy
	codeLimit = "LimitExceeded" // the user has two keys
)

// code is that of AWS's answer; empty if there was none.
func code(err error) string {
	var answer smithy.APIError
	if errors.As(err, &answer) {
		return answer.ErrorCode()
	}
	return ""
}

// neverSent tells whether AWS has heard nothing of a request that was made once.
func neverSent(err error) bool {
	var op *net.OpError
	var certificate *tls.CertificateVerificationError
	return awsconn.LoginFailed(err) || errors.As(err, &op) && op.Op == "dial" || errors.As(err, &certificate)
}

// mintOnce sends a request again only where AWS has said that it did nothing: where an
// answer was lost, asking again would make a second key that nobody knows.
func mintOnce(o *iam.Options) {
	if r, ok := o.Retryer.(aws.RetryerV2); ok {
		o.Retryer = refusedOnly{r}
		return
	}
	o.Retryer = aws.NopRetryer{}
}

type refusedOnly struct{ aws.RetryerV2 }

func (r refusedOnly) IsErrorRetryable(err error) bool {
	var answer *smithyhttp.ResponseError
	return errors.As(err, &answer) && answer.HTTPStatusCode()/100 == 4 && code(err) != codeUnknown && r.RetryerV2.IsErrorRetryable(err)
}

// codeUnknown is the SDK's for an answer that was none of AWS's.
const codeUnknown = "UnknownError"

// clockOf is the time of day that AWS put on an answer or on a refusal, in whole
// seconds; zero where there is none.
func clockOf(meta middleware.Metadata, err error) time.Time {
	if at, ok := awsmiddleware.GetServerTime(meta); ok {
		return at
	}
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.Response == nil {
		return time.Time{}
	}
	at, err := http.ParseTime(answer.Response.Header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return at
}
