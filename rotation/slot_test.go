package rotation_test

import (
	"slices"
	"testing"

	"github.com/keybroker/keybroker/rotation"
)

func TestChooseSlot(t *testing.T) {
	type held = rotation.Holder
	both := []held{{"a", 3, true}, {"b", 2, false}}
	for _, tt := range []struct {
		name      string
		slots     []string
		held      []held
		urgent    bool
		want      string
		displaced []int
		ok        bool
	}{
		{"the first of all", []string{"a", "b"}, nil, false, "a", nil, true},
		{"the spare one", []string{"a", "b"}, []held{{"a", 1, true}}, false, "b", nil, true},
		{"the spare one, in an emergency", []string{"a", "b"}, []held{{"a", 1, true}}, true, "b", nil, true},
		{"none while both live", []string{"a", "b"}, both, false, "", nil, false},
		{"the previous one's in an emergency", []string{"a", "b"}, both, true, "b", []int{2}, true},
		{"the newest of those not current", []string{"a", "b", "c"}, []held{{"a", 3, true}, {"b", 1, false}, {"c", 2, false}}, true, "c", []int{2}, true},
		{"never the current one's of several", []string{"a", "b"}, []held{{"a", 3, true}, {"b", 3, true}}, true, "", nil, false},
		{"a single one, whoever holds it", []string{"a"}, []held{{"a", 1, true}}, false, "a", []int{1}, true},
		{"a single one that is free", []string{"a"}, nil, false, "a", nil, true},
		{"what is in a slot of before holds none", []string{"a", "b"}, []held{{"gone", 1, true}}, false, "a", nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			slot, displaced, ok := rotation.ChooseSlot(tt.slots, tt.held, tt.urgent)
			if slot != tt.want || !slices.Equal(displaced, tt.displaced) || ok != tt.ok {
				t.Errorf("got %q, %v, %t; want %q, %v, %t", slot, displaced, ok, tt.want, tt.displaced, tt.ok)
			}
		})
	}
}
