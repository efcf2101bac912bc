package awsconn

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/keybroker/keybroker/backends"
)

// codes maps what AWS answers to classes of error: the error codes of Secrets
// Manager, Systems Manager, KMS, STS and IAM in their API references, besides
// refusals. What is not here goes by its HTTP status.
var codes = map[error][]string{
	backends.ErrNotFound: {
		"NoSuchEntity", "NotFoundException", "ParameterNotFound", "ParameterVersionNotFound", "ResourceNotFoundException",
	},
	backends.ErrDenied: {
		"AccessDenied", "AccessDeniedException", "MissingAuthenticationToken", "MissingAuthenticationTokenException",
		"NotAuthorized", "OptInRequired", "RegionDisabledException", "UnauthorizedOperation",
	},
	backends.ErrConflict: {
		"AlreadyExistsException", "ConflictException", "EntityAlreadyExists", "ParameterAlreadyExists", "PreconditionNotMetException",
		"ResourceExistsException",
		"InvalidRequestException", // Secrets Manager: not in the secret's present state, e.g. scheduled for deletion
	},
	backends.ErrUnsupported: {"UnknownOperationException", "UnsupportedOperationException"},
	backends.ErrUnavailable: {
		"InternalFailure", "InternalServerError", "InternalServerException", "InternalServiceError", "InternalServiceException",
		"RequestTimeout", "RequestTimeoutException", "ServiceUnavailable", "ServiceUnavailableException",
		"ConcurrentModification", "EntityTemporarilyUnmodifiable", "ServiceFailure", // IAM
		"LimitExceededException", "ParameterLimitExceeded", "RequestLimitExceeded", "Throttling", "ThrottlingException",
		"ThrottledException", "TooManyRequestsException", "TooManyUpdates",
		"InvalidNextToken", "InvalidNextTokenException", // a page that has gone; begin again
		// A KMS key that is disabled, being made or away: its owner may mend that.
		"DecryptionFailure", "DependencyTimeoutException", "DisabledException", "EncryptionFailure", "KMSInternalException",
		"KMSInvalidStateException", "KeyUnavailableException",
		// Parameter Store's one code for a key that is disabled, pending deletion or not
		// found (Systems Manager user guide, "KMS encryption for Parameter Store
		// SecureString parameters"), also when it reads.
		"InvalidKeyId",
	},
}

var classes = func() map[string]error {
	byCode := map[string]error{}
	for class, list := range codes {
		for _, code := range list {
			byCode[code] = class
		}
	}
	for _, code := range refusals {
		byCode[code] = backends.ErrDenied
	}
	return byCode
}()

// Fault turns an error of one of the SDK's clients into one of a class. sent is
// what the request carried: an answer that quotes a text out of it is not passed on.
//
// A failure without an answer (network, timeout, cut off in the middle) is
// ErrUnavailable and keeps its cause, so that errors.Is finds context.Canceled.
// Where there was an answer, only its code, its message and the request's id in
// CloudTrail are told. How long an answer says to wait is what backends.RetryAfter
// gives.
func Fault(err error, sent ...backends.Value) error {
	if err == nil {
		return nil
	}
	var login *loginError
	if errors.As(err, &login) {
		return login
	}
	if backends.Class(err) != nil {
		return err
	}
	status, header := response(err)
	fault := fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	var answer smithy.APIError
	switch {
	case errors.As(err, &answer):
		fault = fmt.Errorf("%w: AWS answered %d %s", classOf(answer.ErrorCode(), status), status, told(answer, requestID(header), sent))
	case status > 0:
		fault = fmt.Errorf("%w: AWS answered %d in another form than its own", byStatus(status, ""), status)
	}
	if wait, ok := waitIn(header); ok && errors.Is(fault, backends.ErrUnavailable) {
		return backends.After(wait, fault)
	}
	return fault
}

// response gives the status and the header of what was answered; 0 and nil: nothing.
func response(err error) (status int, header http.Header) {
	var r *smithyhttp.ResponseError
	if !errors.As(err, &r) || r.Response == nil || r.Response.Response == nil {
		return 0, nil
	}
	return r.HTTPStatusCode(), r.Response.Header
}

// waitIn is how long an answer says to wait, if it does: by Retry-After (RFC 9110,
// 10.2.3), or by AWS's own header, in milliseconds (aws-sdk-go-v2, package retry).
func waitIn(header http.Header) (wait time.Duration, ok bool) {
	if ms, err := strconv.ParseUint(header.Get("X-Amz-Retry-After"), 10, 32); err == nil {
		return time.Duration(ms) * time.Millisecond, true
	}
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Until(at), 0), true
	}
	return 0, false
}

func classOf(code string, status int) error {
	if class, known := classes[code]; known {
		return class
	}
	return byStatus(status, code)
}

// byStatus is for answers whose code says nothing to us. Without any code there
// is something before AWS that answered: nothing that it says is final, but a
// refusal; least of all that there is nothing.
func byStatus(status int, code string) error {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return backends.ErrDenied
	case status == http.StatusRequestEntityTooLarge:
		return backends.ErrInvalid
	case status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests &&
		code != "" && code != unknownCode:
		return backends.ErrInvalid
	}
	return backends.ErrUnavailable
}

// unknownCode is the SDK's for an answer without a code.
const unknownCode = "UnknownError"

var plainCode = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9.]{0,63}$`)

// told is what may be said of an answer.
func told(answer smithy.APIError, id string, sent []backends.Value) string {
	code, said := answer.ErrorCode(), brief(answer.ErrorMessage())
	if !plainCode.MatchString(code) || quotes(code, sent) {
		code = "an unknown code"
	}
	if said == "" || said == unknownCode || quotes(answer.ErrorMessage(), sent) {
		return code + id
	}
	return code + ": " + said + id
}

var plainID = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

func requestID(header http.Header) string {
	if id := header.Get("X-Amzn-Requestid"); plainID.MatchString(id) {
		return " (request " + id + ")"
	}
	return ""
}

// quotes tells whether said gives anything away of what was sent.
func quotes(said string, sent []backends.Value) bool {
	for _, value := range sent {
		for _, text := range value.Reveal() {
			if backends.Quotes(said, text) {
				return true
			}
		}
	}
	return false
}

// brief makes one line of at most 300 bytes.
func brief(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}
