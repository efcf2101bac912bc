package externalsecrets

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

const (
	// forceSync is the annotation that the operator's FAQ has people change to refresh at
	// once (any change of any annotation does it). Ours names each secret with the message
	// that it was refreshed for last, so that the message repeated changes nothing:
	// "payments/db:5:0198c0d2-… payments/stripe:12:0198c0e7-…". Generations alone would
	// not do: those of a broker that was set up anew, or restored, begin again.
	forceSync = "force-sync"
	// refreshed is its state right before, from which a refresh is told afterwards.
	refreshed = "keybroker.dev/refreshed-before"
)

// marks are "generation:message" by secret.
type marks map[string]string

// readMarks leaves out what is not of our form: people write the annotation, too.
func readMarks(text string) marks {
	m := marks{}
	for mark := range strings.FieldsSeq(text) {
		at := strings.LastIndexByte(mark, ':')
		at = strings.LastIndexByte(mark[:max(at, 0)], ':') // a tenant's secret is "acme:payments/stripe"
		if at < 1 {
			continue
		}
		if generation, _, _ := strings.Cut(mark[at+1:], ":"); isNumber(generation) {
			m[mark[:at]] = mark[at+1:]
		}
	}
	return m
}

func isNumber(text string) bool {
	_, err := strconv.ParseInt(text, 10, 64)
	return err == nil
}

// String is the same for the same marks.
func (m marks) String() string {
	var all []string
	for _, secret := range slices.Sorted(maps.Keys(m)) {
		all = append(all, secret+":"+m[secret])
	}
	return strings.Join(all, " ")
}
