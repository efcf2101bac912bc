package audit

import (
	"crypto/sha256"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// tree is the Merkle tree of RFC 6962 over the lines so far. Of it only the roots of
// the full subtrees are kept, the largest first: as many as the size has bits that are
// set, and all that it takes to go on and to know the root.
type tree struct {
	size int64
	full []tlog.Hash
}

func (t tree) clone() tree { return tree{t.size, slices.Clone(t.full)} }

func (t *tree) add(leaf tlog.Hash) {
	t.full = append(t.full, leaf)
	for n := t.size; n&1 == 1; n >>= 1 {
		k := len(t.full) - 2
		t.full = append(t.full[:k], tlog.NodeHash(t.full[k], t.full[k+1]))
	}
	t.size++
}

func (t tree) root() tlog.Hash {
	if len(t.full) == 0 {
		return sha256.Sum256(nil)
	}
	root := t.full[len(t.full)-1]
	for i := len(t.full) - 2; i >= 0; i-- {
		root = tlog.NodeHash(t.full[i], root)
	}
	return root
}

// whole tells whether there are as many subtrees as the size says.
func (t tree) whole() bool { return t.size >= 0 && bits.OnesCount64(uint64(t.size)) == len(t.full) }
