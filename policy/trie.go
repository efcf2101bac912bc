package policy

import (
	"slices"
	"strings"
)

// trie finds the most specific of many patterns that match a path. It is a radix
// tree over the bytes of patterns, the "*" at their ends left out. A "+" is a
// branch of its own, which takes one whole segment. So what a search costs depends
// on the path and not on the number of patterns: it follows the path's own bytes
// and, at the beginnings of segments, what stands behind a "+". Maps of literals
// (one try for each of their lengths) and lists of the patterns that begin with
// the same one (one try for each of these) are faster only where there are few.
//
// Most of the time is spent waiting for memory. So nodes are small and name each
// other by numbers, and siblings, and what a node has of text, stand together.
type trie struct {
	nodes []node // the first is the root; none: nothing matches
	text  string
}

// node is one of a trie. Rules stand in it by their ranks: the greater is the more
// specific; 0 is none.
type node struct {
	exact    uint32 // the rule for a path that ends here
	prefix   uint32 // the rule for every path that comes here: its pattern ends in "*"
	top      uint32 // the highest rank here or below
	plus     uint32 // the node behind a "+"; 0: none
	children uint32 // the first of the nodes for the next byte, which stand together
	text     uint32 // where in the trie's text the label begins, and after it the initials
	label    uint32 // bytes of the label: what the rest of the path must begin with
	initials uint32 // bytes of the initials: those that the children's labels begin with, in their order
}

// ranked is a pattern with its rank.
type ranked struct {
	stem     string // without a "*" at its end
	trailing bool   // there is one
	rank     uint32
}

func newTrie(patterns []ranked) trie {
	if len(patterns) == 0 {
		return trie{}
	}
	slices.SortFunc(patterns, func(x, y ranked) int { return strings.Compare(x.stem, y.stem) })
	g := grower{nodes: make([]node, 1)}
	g.grow(0, patterns, 0)
	return trie{nodes: g.nodes, text: string(g.text)}
}

type grower struct {
	nodes []node
	text  []byte
}

// grow makes the node called at of patterns, sorted by their stems, that agree in
// the first n bytes of these.
func (g *grower) grow(at uint32, patterns []ranked, n int) {
	label := agreement(patterns[0].stem[n:], patterns[len(patterns)-1].stem[n:])
	n += len(label)
	made := node{text: uint32(len(g.text)), label: uint32(len(label))}
	for _, p := range patterns {
		made.top = max(made.top, p.rank)
	}
	for ; len(patterns) > 0 && len(patterns[0].stem) == n; patterns = patterns[1:] {
		if patterns[0].trailing {
			made.prefix = patterns[0].rank
		} else {
			made.exact = patterns[0].rank
		}
	}
	g.text = append(g.text, label...)
	branches, plus := branch(patterns, n)
	for _, b := range branches {
		g.text = append(g.text, b[0].stem[n])
	}
	made.initials, made.children = uint32(len(branches)), uint32(len(g.nodes))
	g.nodes = append(g.nodes, make([]node, len(branches))...)
	if len(plus) > 0 {
		made.plus = uint32(len(g.nodes))
		g.nodes = append(g.nodes, node{})
		g.grow(made.plus, plus, n+1)
	}
	g.nodes[at] = made
	for i, b := range branches {
		g.grow(made.children+uint32(i), b, n)
	}
}

// branch parts sorted patterns by the byte at n; a "+" stands alone.
func branch(patterns []ranked, n int) (branches [][]ranked, plus []ranked) {
	for len(patterns) > 0 {
		initial, same := patterns[0].stem[n], 1
		for same < len(patterns) && patterns[same].stem[n] == initial {
			same++
		}
		if initial == '+' {
			plus = patterns[:same]
		} else {
			branches = append(branches, patterns[:same])
		}
		patterns = patterns[same:]
	}
	return branches, plus
}

// agreement is what both begin with, up to a "+".
func agreement(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] && a[n] != '+' {
		n++
	}
	return a[:n]
}

// find returns the highest rank among the patterns that match path, 0 if none does.
func (t *trie) find(path string) uint32 {
	if len(t.nodes) == 0 {
		return 0
	}
	return t.search(0, path, 0)
}

// search is find for what is left of a path at a node, and a rank that is found
// already. Literal bytes go before a "+", as what matches by them ranks higher: so
// a branch that cannot win is mostly known by its top, and left alone.
func (t *trie) search(at uint32, rest string, best uint32) uint32 {
	for {
		n := &t.nodes[at]
		text := t.text[n.text : n.text+n.label+n.initials]
		if n.top < best || !strings.HasPrefix(rest, text[:n.label]) {
			return best
		}
		rest = rest[n.label:]
		best = max(best, n.prefix)
		next := -1
		if rest == "" {
			best = max(best, n.exact)
		} else {
			next = strings.IndexByte(text[n.label:], rest[0])
		}
		switch {
		case n.plus == 0 && next < 0:
			return best
		case n.plus == 0:
			at = n.children + uint32(next)
			continue
		case next >= 0:
			best = t.search(n.children+uint32(next), rest, best)
		}
		at, rest = n.plus, afterSegment(rest)
	}
}

// afterSegment is what follows the rest of a segment, with its slash.
func afterSegment(rest string) string {
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[i:]
	}
	return ""
}
