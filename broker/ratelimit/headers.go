package ratelimit

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// Headers tells h what is left of quotas, in the form of the IETF draft "RateLimit
// header fields for HTTP" (draft-ietf-httpapi-ratelimit-headers): q requests in w
// seconds in the long run; r may come now, and all that may come at once may come
// in t seconds.
func Headers(h http.Header, quotas ...Quota) {
	var policies, left []byte
	for i, q := range quotas {
		if i > 0 {
			policies, left = append(policies, ", "...), append(left, ", "...)
		}
		policies = strconv.AppendQuote(policies, q.Policy)
		policies = strconv.AppendInt(append(policies, ";q="...), int64(q.PerMinute), 10)
		policies = append(policies, ";w=60"...)
		left = strconv.AppendQuote(left, q.Policy)
		left = strconv.AppendInt(append(left, ";r="...), int64(q.Left), 10)
		left = strconv.AppendInt(append(left, ";t="...), WholeSeconds(q.Full), 10)
	}
	if len(quotas) > 0 {
		h.Set("RateLimit-Policy", string(policies))
		h.Set("RateLimit", string(left))
	}
}

// WholeSeconds rounds up, as a Retry-After needs.
func WholeSeconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }
