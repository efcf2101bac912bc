package rotation

import "slices"

// Holder is a version that is alive in a slot of a Set issuer.
type Holder struct {
	Slot    string
	Version int
	Current bool
}

// ChooseSlot picks the account whose value is set next. A single slot is always
// it: its new value ends the one before. Of several it is one that holds no live
// version; where all do and it is urgent, the one of the newest that is not the
// current one, which dies of it. displaced are the versions that end when the slot
// is set; ok is false if no slot may be set now.
func ChooseSlot(slots []string, held []Holder, urgent bool) (slot string, displaced []int, ok bool) {
	in := func(slot string) (here []Holder) {
		for _, h := range held {
			if h.Slot == slot {
				here = append(here, h)
			}
		}
		return here
	}
	if len(slots) == 1 {
		return slots[0], versionsOf(in(slots[0])), true
	}
	newest := 0
	for _, s := range slots {
		here := in(s)
		if len(here) == 0 {
			return s, nil, true
		}
		last := slices.Max(versionsOf(here))
		if urgent && last > newest && !slices.ContainsFunc(here, func(h Holder) bool { return h.Current }) {
			slot, displaced, newest, ok = s, versionsOf(here), last, true
		}
	}
	return slot, displaced, ok
}

func versionsOf(held []Holder) []int {
	var out []int
	for _, h := range held {
		out = append(out, h.Version)
	}
	return out
}
