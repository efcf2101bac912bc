package audit

import "fmt"

// Verification is what a journal is verified with.
type Verification struct {
	// Paths are segments of one journal in any order, or directories that have them
	// (audit.jsonl, audit-INDEX.jsonl).
	Paths []string
	Key   string // public, as PublicKey gives it
	// Checkpoints are signed notes that were kept elsewhere: what they cover must be there.
	Checkpoints []string
	// Partial accepts that the first segments are not there.
	Partial bool
	// Accept are indices of faults that a person has looked into. Only such can be
	// accepted as the node has recorded itself, under its signature.
	Accept []int64
}

// Fault is something that is wrong with a journal.
type Fault struct {
	File  string `json:"file"`
	Line  int    `json:"line"`  // of it, or where it is missed; from 1 on; 0: it is in a file before
	Index int64  `json:"index"` // of the first record that is bad, or that is missing
	What  string `json:"what"`
	// Recorded: the node itself has found it and signed that it did; it can be accepted.
	Recorded bool `json:"recorded"`
	Accepted bool `json:"accepted"`

	by int64 // index after which it counts as recorded once that is signed; -1: never
}

func (f Fault) String() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: record %d: %s", f.File, f.Index, f.What)
	}
	return fmt.Sprintf("%s:%d: record %d: %s", f.File, f.Line, f.Index, f.What)
}

// Verdict is what came of verifying a journal.
type Verdict struct {
	Origin   string   `json:"origin"`   // the name of the log
	Files    []string `json:"files"`    // in the order of their records
	From     int64    `json:"from"`     // the first record that was looked at
	Records  int64    `json:"records"`  // that follow from each other, from there on
	Proven   int64    `json:"proven"`   // the records before this index are as they were signed
	Fault    *Fault   `json:"fault"`    // the first that is not accepted; null: nothing is wrong
	Faults   []Fault  `json:"faults"`   // all, in their order; no more than 100
	Adopted  []Span   `json:"adopted"`  // records that were signed without the node having known that it wrote them
	Notes    []string `json:"notes"`    // what is no fault, and worth knowing
	Unsigned int64    `json:"unsigned"` // records after the last checkpoint: nothing but their chain was checked
}

// Span are records that follow each other.
type Span struct {
	From int64 `json:"from"` // the first
	To   int64 `json:"to"`   // the last
}

// maxFaults is how many are listed.
const maxFaults = 100

func (w *verifier) finish() Verdict {
	w.verdict.Records = w.tree.size - w.verdict.From
	w.verdict.Unsigned = w.since
	for _, c := range w.adopted {
		if c.index < w.covered {
			w.verdict.Adopted = append(w.verdict.Adopted, c.Span)
		}
	}
	for i := range w.verdict.Faults {
		f := &w.verdict.Faults[i]
		f.Recorded = f.by >= 0 && f.by <= w.covered
		f.Accepted = f.Recorded && w.accept[f.Index]
		if !f.Accepted && w.verdict.Fault == nil {
			w.verdict.Fault = f
		}
	}
	return w.verdict
}
