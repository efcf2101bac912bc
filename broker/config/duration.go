package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
)

const day = 24 * time.Hour

// ParseDuration reads a duration in Go's syntax that may begin with days of 24
// hours: "90s", "1h30m", "35d", "1d12h". The error is ErrInvalid.
func ParseDuration(text string) (time.Duration, error) {
	wrong := fmt.Errorf("%w: %q is no duration", backends.ErrInvalid, text)
	number, rest, ok := strings.Cut(text, "d")
	if !ok {
		length, err := time.ParseDuration(text)
		if err != nil {
			return 0, wrong
		}
		return length, nil
	}
	days, err := strconv.ParseFloat(number, 64)
	if err != nil || math.Abs(days) > float64(math.MaxInt64/day) || math.IsNaN(days) {
		return 0, wrong
	}
	length := time.Duration(days * float64(day))
	if rest == "" {
		return length, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || more < 0 || days < 0 || length > math.MaxInt64-more {
		return 0, wrong
	}
	return length + more, nil
}
