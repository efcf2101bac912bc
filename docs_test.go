package keybroker_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	fenced   = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z]\w*)\(`)
	// A test is named alone, or after its directory; after a dot alone it is in the
	// directory that was named before it in the line. One with an ellipsis is the
	// beginning of several names.
	testName = regexp.MustCompile(`([a-z][a-z0-9/]*)?(\.)?\b((?:Test|Fuzz|Benchmark)[A-Z]\w*)(…)?`)
)

// files are the texts of those whose names end so, by their paths.
func files(t *testing.T, ending string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "data"):
			return fs.SkipDir // what was built, and what a node keeps
		case d.IsDir() || !strings.HasSuffix(name, ending):
			return nil
		}
		text, err := os.ReadFile(filepath.FromSlash(name))
		texts[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// anchor is what a heading is linked by, as GitHub makes it.
func anchor(heading string) string {
	keep := func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r > 127:
			return r
		}
		return -1
	}
	return strings.Map(keep, strings.ToLower(strings.TrimSpace(heading)))
}

// TestDocumentsLeadSomewhere: every relative link has a file, and a heading if it names one.
func TestDocumentsLeadSomewhere(t *testing.T) {
	texts := files(t, ".md")
	links := 0
	for name, text := range texts {
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			file, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(file, ":") {
				continue // elsewhere
			}
			links++
			to := name
			if file != "" {
				to = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(filepath.FromSlash(to)); err != nil {
				t.Errorf("%s: %s leads nowhere", name, m[1])
				continue
			}
			found := fragment == ""
			for _, h := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(texts[to], ""), -1) {
				found = found || anchor(h[1]) == fragment
			}
			if !found {
				t.Errorf("%s: %s has no heading %q", name, to, fragment)
			}
		}
	}
	if links < 20 {
		t.Errorf("only %d links were found", links)
	}
}

// TestDocumentsNameTestsThatExist, in the package that they say.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	tests := map[string][]string{} // directories by name
	for name, text := range files(t, "_test.go") {
		for _, m := range testFunc.FindAllStringSubmatch(text, -1) {
			tests[m[1]] = append(tests[m[1]], path.Dir(name))
		}
	}
	exists := func(dir, test string, begins bool) bool {
		for name, dirs := range tests {
			if name != test && !(begins && strings.HasPrefix(name, test)) {
				continue
			}
			for _, d := range dirs {
				if dir == "" || d == dir {
					return true
				}
			}
		}
		return false
	}
	named := 0
	for name, text := range files(t, ".md") {
		if name != "README.md" && path.Dir(name) != "docs" {
			continue // how to write a package names tests that are to be written
		}
		for line := range strings.Lines(text) {
			before := ""
			for _, m := range testName.FindAllStringSubmatch(line, -1) {
				dir := ""
				if m[2] != "" {
					if dir = m[1]; dir == "" {
						dir = before
					}
					if dir == "" {
						t.Errorf("%s: .%s is in no directory", name, m[3])
					}
					before = dir
				}
				named++
				if !exists(dir, m[3], m[4] != "") {
					t.Errorf("%s: there is no test %s in %q", name, m[3], dir)
				}
			}
		}
	}
	if named < 100 {
		t.Errorf("only %d tests are named", named)
	}
}
