package vault

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// metadata is the answer to GET <mount>/metadata/<path>.
type metadata struct {
	CurrentVersion int               `json:"current_version"` // the newest, deleted or not
	Custom         map[string]string `json:"custom_metadata"`
	Versions       map[string]struct {
		CreatedTime  time.Time `json:"created_time"`
		DeletionTime string    `json:"deletion_time"` // empty, or when it was or will be deleted
		Destroyed    bool      `json:"destroyed"`
	} `json:"versions"`
}

// The keys of the custom metadata that make a backends.Note.
const (
	noteOf         = "keybroker_vault_version"
	noteVersion    = "keybroker_version"
	noteGeneration = "keybroker_generation"
)

// note is zero where the keys are missing or somebody else has changed them into
// what we never write.
func (m metadata) note() backends.Note {
	of, err := strconv.Atoi(m.Custom[noteOf])
	version, versionErr := strconv.Atoi(m.Custom[noteVersion])
	generation, generationErr := strconv.ParseInt(m.Custom[noteGeneration], 10, 64)
	if err != nil || versionErr != nil || generationErr != nil {
		return backends.Note{}
	}
	return backends.Note{Of: versionID(of), Version: version, Generation: generation}
}

// description is ErrNotFound for a path that has metadata but never held a value.
func (m metadata) description(now time.Time) (backends.Description, error) {
	var numbers []int
	for key := range m.Versions {
		n, err := number(backends.VersionID(key))
		if err != nil {
			return backends.Description{}, fmt.Errorf("%w: vault names a version %q", backends.ErrUnavailable, key)
		}
		numbers = append(numbers, n)
	}
	if len(numbers) == 0 {
		return backends.Description{}, fmt.Errorf("%w: the path has no versions", backends.ErrNotFound)
	}
	slices.Sort(numbers)

	desc := backends.Description{Note: m.note()}
	for _, n := range numbers {
		v := m.Versions[strconv.Itoa(n)]
		gone := v.Destroyed
		if v.DeletionTime != "" {
			at, err := time.Parse(time.RFC3339Nano, v.DeletionTime)
			gone = gone || err != nil || !at.After(now)
		}
		desc.Versions = append(desc.Versions, backends.VersionMeta{ID: versionID(n), CreatedAt: v.CreatedTime, Gone: gone})
		if n == m.CurrentVersion && !gone {
			desc.Current = versionID(n)
		}
	}
	return desc, nil
}

func versionID(n int) backends.VersionID { return backends.VersionID(strconv.Itoa(n)) }

// number is the inverse of versionID; ErrNotFound for what this vault never
// named a version.
func number(id backends.VersionID) (int, error) {
	n, err := strconv.Atoi(string(id))
	if err != nil || n < 1 || versionID(n) != id {
		return 0, fmt.Errorf("%w: %q is no version of KV v2", backends.ErrNotFound, string(id))
	}
	return n, nil
}

// stored is how many bytes the engine keeps of fields: it keeps JSON.
func stored(fields map[string]string) int {
	b, _ := json.Marshal(fields) // strings cannot fail
	defer clear(b)
	return len(b)
}

// decode brings an answer into the form of into. Its errors quote nothing.
func decode(data map[string]any, into any) error {
	b, err := json.Marshal(data)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		return fmt.Errorf("%w: vault's answer has not the form of KV v2", backends.ErrUnavailable)
	}
	return nil
}

// valueOf turns the data of a version into fields: strings as they are, all
// else as JSON text, numbers to the last digit.
func valueOf(data map[string]json.RawMessage) backends.Value {
	fields := make(map[string]string, len(data))
	for name, raw := range data {
		var text string
		if raw[0] != '"' || json.Unmarshal(raw, &text) != nil {
			text = string(raw)
		}
		fields[name] = text
	}
	return backends.NewValue(fields)
}
