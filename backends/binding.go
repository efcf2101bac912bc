package backends

import "encoding/binary"

// AssociatedData is what a sealed value is bound to: tenant, secret, version
// and column, each prefixed by its length so that no two bindings share their
// bytes. A sealed value copied to another place does not open there.
func AssociatedData(ref Ref, version int, column string) []byte {
	ad := []byte("keybroker/1")
	for _, part := range []string{ref.Tenant, ref.Name, column} {
		ad = binary.BigEndian.AppendUint32(ad, uint32(len(part)))
		ad = append(ad, part...)
	}
	return binary.BigEndian.AppendUint64(ad, uint64(version))
}
