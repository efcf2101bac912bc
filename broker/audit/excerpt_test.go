package audit_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/audit"
)

// excerptOf takes the lines about every third path out of a log of some segments.
func excerptOf(t *testing.T, records, maxSize int) (*audit.Log, audit.Excerpt, string) {
	t.Helper()
	path := newPath(t)
	cfg := configAt(path)
	cfg.MaxSize = int64(maxSize)
	log := open(t, cfg)
	paths := map[string]bool{}
	for n := range records {
		if n%3 == 0 {
			paths[fmt.Sprintf("app/key%d", n)] = true
		}
		mustWrite(t, log, event(n), audit.Written)
		if n%7 == 0 {
			if _, err := log.Sign(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	x, err := log.Excerpt(t.Context(), audit.About{Paths: paths, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return log, x, path
}

func TestAnExcerptProvesItself(t *testing.T) {
	for _, records := range []int{1, 2, 3, 8, 50, 120} {
		_, x, path := excerptOf(t, records, 4<<10)
		lines, err := x.Verify()
		if err != nil {
			t.Fatalf("%d records: %v", records, err)
		}
		if want := (records + 2) / 3; len(lines) != want {
			t.Fatalf("%d records: %d lines, want %d", records, len(lines), want)
		}
		for i, ln := range lines {
			if ln.Path != fmt.Sprintf("app/key%d", 3*i) {
				t.Errorf("line %d is about %s", i, ln.Path)
			}
		}
		if missing, err := x.Lacks([]string{filepath.Dir(path)}); missing != nil || err != nil {
			t.Errorf("its own journal lacks %v: %v", missing, err)
		}
	}
}

func TestAnExcerptThatWasChanged(t *testing.T) {
	_, x, _ := excerptOf(t, 40, 4<<10)
	other, _, otherPath := excerptOf(t, 1, 4<<10)
	for name, change := range map[string]func(*audit.Excerpt){
		"a text":       func(x *audit.Excerpt) { replaceIn(&x.Blocks[1].Lines[0].Line, "tok_1", "tok_2") },
		"an index":     func(x *audit.Excerpt) { x.Blocks[1].Lines[0].Index++ },
		"a proof":      func(x *audit.Excerpt) { x.Blocks[1].Proof[0] = x.Blocks[1].Proof[1] },
		"too much":     func(x *audit.Excerpt) { x.Blocks[1].Proof = append(x.Blocks[1].Proof, x.Blocks[1].Proof[0]) },
		"too little":   func(x *audit.Excerpt) { x.Blocks[1].Proof = x.Blocks[1].Proof[1:] },
		"a checkpoint": func(x *audit.Excerpt) { replaceIn(&x.Blocks[1].Checkpoint, "\ntime 2", "\ntime 3") },
		"a line less":  func(x *audit.Excerpt) { x.Blocks[2].Lines = x.Blocks[2].Lines[1:] },
		"twice":        func(x *audit.Excerpt) { x.Blocks = append(x.Blocks, x.Blocks[1]) },
		"its bounds":   func(x *audit.Excerpt) { x.To = 3 },
		"its name":     func(x *audit.Excerpt) { x.Origin = "keybroker/audit/n2" },
	} {
		t.Run(name, func(t *testing.T) {
			var changed audit.Excerpt
			text, err := json.Marshal(x)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &changed); err != nil {
				t.Fatal(err)
			}
			change(&changed)
			if _, err := changed.Verify(); err == nil {
				t.Error("it verifies")
			}
		})
	}
	closeLog(t, other)
	if missing, err := x.Lacks([]string{filepath.Dir(otherPath)}); missing == nil || err != nil {
		t.Errorf("another journal lacks nothing of it: %v", err)
	}
}

func replaceIn(text *string, old, by string) {
	if !strings.Contains(*text, old) {
		panic("there is nothing to change")
	}
	*text = strings.Replace(*text, old, by, 1)
}

func TestAnExcerptIsCutAndSaysSo(t *testing.T) {
	log, whole, _ := excerptOf(t, 60, 1<<20)
	if whole.Cut {
		t.Error("the whole one is cut")
	}
	paths := map[string]bool{"app/key3": true, "app/key9": true, "app/key30": true}
	x, err := log.Excerpt(t.Context(), audit.About{Paths: paths, Limit: 2})
	if err != nil || !x.Cut {
		t.Fatalf("cut %v, %v", x.Cut, err)
	}
	if lines, err := x.Verify(); err != nil || len(lines) != 2 || x.To >= whole.To {
		t.Errorf("%d lines up to %d: %v", len(lines), x.To, err)
	}
	later, err := log.Excerpt(t.Context(), audit.About{Paths: paths, Since: time.Unix(1790000000+9, 0), Limit: 9})
	if lines, verr := later.Verify(); err != nil || verr != nil || len(lines) != 2 {
		t.Errorf("%d lines since the time of key9: %v, %v", len(lines), err, verr)
	}
}
