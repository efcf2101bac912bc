package externalsecrets

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

const (
	// forceSync is the annotation that the operator's FAQ has people change to refresh at
	// once (any change of any annotation does it). Ours names each secret with the newest
	// generation that it was refreshed for, so that a repeated message changes nothing
	// and one that comes late undoes nothing: "payments/db:5 payments/stripe:12".
	forceSync = "force-sync"
	// refreshed is its state right before, from which a refresh is told afterwards.
	refreshed = "keybroker.dev/refreshed-before"
)

// marks are generations by secret.
type marks map[string]int64

// readMarks leaves out what is not of our form: people write the annotation, too.
func readMarks(text string) marks {
	m := marks{}
	for mark := range strings.FieldsSeq(text) {
		at := strings.LastIndexByte(mark, ':') // a tenant's secret is "acme:payments/stripe"
		if at < 1 {
			continue
		}
		if generation, err := strconv.ParseInt(mark[at+1:], 10, 64); err == nil {
			m[mark[:at]] = generation
		}
	}
	return m
}

// String is the same for the same marks.
func (m marks) String() string {
	var all []string
	for _, secret := range slices.Sorted(maps.Keys(m)) {
		all = append(all, secret+":"+strconv.FormatInt(m[secret], 10))
	}
	return strings.Join(all, " ")
}
