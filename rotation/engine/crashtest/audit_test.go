package crashtest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// line is what is looked at of the audit log.
type line struct {
	Action string            `json:"action"`
	Path   string            `json:"path"`
	Seq    int64             `json:"seq"`
	Detail map[string]string `json:"detail"`
}

// publication is what a line of the audit log says of one generation.
type publication struct {
	seq, generation int64
	version         int
}

// checkAudit looks for exactly one publication of each generation, of the version
// that was seen in it. What the engine did reaches the log a little later.
func (s *site) checkAudit() {
	var missing string
	for range 60 {
		s.readAudit()
		if missing = s.missingPublications(); missing == "" {
			s.comparePublications()
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.violation("the audit log lacks %s", missing)
}

func (s *site) missingPublications() string {
	for name, sub := range s.subject {
		sub.mu.Lock()
		newest := sub.newest
		for generation := range sub.seen {
			newest = max(newest, generation)
		}
		sub.mu.Unlock()
		for generation := int64(1); generation <= newest; generation++ {
			if _, ok := s.published[name][generation]; !ok {
				return fmt.Sprintf("the publication of generation %d of %s", generation, name)
			}
		}
		for _, r := range sub.undone {
			if _, ok := s.restored[r.ID]; !ok {
				return fmt.Sprintf("the rollback of rotation %s of %s", r.ID, name)
			}
		}
	}
	return ""
}

func (s *site) comparePublications() {
	for name, sub := range s.subject {
		sub.mu.Lock()
		for generation, one := range sub.seen {
			if p := s.published[name][generation]; p.version != one.version {
				s.violation("%s: generation %d was version %d, by the audit log %d", name, generation, one.version, p.version)
			}
		}
		sub.mu.Unlock()
		for _, r := range sub.undone {
			p := s.restored[r.ID]
			if p.version != r.FromVersion {
				s.violation("%s: rotation %s from version %d to %d was rolled back, and version %d was made current", name, r.ID, r.FromVersion, r.ToVersion, p.version)
			}
		}
		sub.undone = nil
	}
}

func (s *site) readAudit() {
	f, err := os.Open(filepath.Join(s.dir, "data", "audit.jsonl"))
	if err != nil {
		s.violation("reading the audit log: %v", err)
		return
	}
	defer f.Close()
	if _, err := f.Seek(s.auditRead, io.SeekStart); err != nil {
		s.violation("reading the audit log: %v", err)
		return
	}
	text, err := io.ReadAll(f)
	if err != nil {
		s.violation("reading the audit log: %v", err)
		return
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	s.auditRead += int64(len(text))
	for raw := range bytes.Lines(text) {
		var l line
		if json.Unmarshal(raw, &l) != nil {
			s.sum.torn.Add(1)
			s.t.Logf("%s: a line of the audit log is no JSON: %q", s.name, raw)
			continue
		}
		s.noteAudit(l)
	}
}

// noteAudit keeps what a line says of a generation: a rollback publishes, too.
func (s *site) noteAudit(l line) {
	generation, _ := strconv.ParseInt(l.Detail["generation"], 10, 64)
	if generation == 0 || l.Action != "rotation.publish" && l.Action != "rotation.rollback" {
		return
	}
	if before, ok := s.published[l.Path][generation]; ok && before.seq != l.Seq {
		s.violation("the audit log has two publications of generation %d of %s: seq %d and %d", generation, l.Path, before.seq, l.Seq)
	}
	version, _ := strconv.Atoi(l.Detail["version"])
	p := publication{l.Seq, generation, version}
	s.published[l.Path][generation] = p
	if l.Action == "rotation.rollback" {
		s.restored[l.Detail["rotation"]] = p
	}
}
