//go:build crashpoints

package daemon_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/memory"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/probe"
)

// has tells whether a component has an ability.
func has[Ability any](component any) bool {
	_, ok := component.(Ability)
	return ok
}

// abilities are all interfaces that the contracts of components declare, and how
// to ask for each.
var abilities = map[string]func(any) bool{
	"issuer.Issuer":          has[issuer.Issuer],
	"issuer.Preparer":        has[issuer.Preparer],
	"issuer.Finder":          has[issuer.Finder],
	"issuer.SettingsChecker": has[issuer.SettingsChecker],
	"probe.Probe":            has[probe.Probe],
	"probe.Canarier":         has[probe.Canarier],
	"backends.Driver":        has[backends.Driver],
	"backends.Stager":        has[backends.Stager],
}

// TestCrashPointsKnowEveryAbility reads the contracts: whoever declares another
// interface there has to make the wrappers keep it.
func TestCrashPointsKnowEveryAbility(t *testing.T) {
	t.Parallel()
	var declared []string
	for _, dir := range []string{"../../rotation/issuer", "../../rotation/probe", "../../backends"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", dir, files, err)
		}
		for _, name := range files {
			if !strings.HasSuffix(name, "_test.go") {
				declared = append(declared, interfacesOf(t, name)...)
			}
		}
	}
	declared = slices.DeleteFunc(declared, func(name string) bool { return name == "backends.Observer" }) // no component's ability
	slices.Sort(declared)
	if known := slices.Sorted(maps.Keys(abilities)); !slices.Equal(declared, known) {
		t.Errorf("the contracts declare %v, the wrappers are tested for %v", declared, known)
	}
}

// interfacesOf lists the exported interfaces that a file declares.
func interfacesOf(t *testing.T, name string) (list []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.IsExported() {
			if _, ok := spec.Type.(*ast.InterfaceType); ok {
				list = append(list, file.Name.Name+"."+spec.Name.Name)
			}
		}
		return true
	})
	return list
}

// TestCrashPointsKeepAbilities wraps components of every set of abilities: what
// comes out has the same ones.
func TestCrashPointsKeepAbilities(t *testing.T) {
	t.Parallel()
	type (
		i = issuer.Issuer
		p = issuer.Preparer
		f = issuer.Finder
		c = issuer.SettingsChecker
	)
	issuers := []issuer.Issuer{
		struct{ i }{},
		struct {
			i
			p
		}{},
		struct {
			i
			f
		}{},
		struct {
			i
			c
		}{},
		struct {
			i
			p
			f
		}{},
		struct {
			i
			p
			c
		}{},
		struct {
			i
			f
			c
		}{},
		struct {
			i
			p
			f
			c
		}{},
	}
	for _, one := range issuers {
		sameAbilities(t, one, daemon.CrashIssuer(one))
	}
	for _, one := range []probe.Probe{struct{ probe.Probe }{}, struct {
		probe.Probe
		probe.Canarier
	}{}} {
		sameAbilities(t, one, daemon.CrashProbe(one))
	}
	for _, one := range []backends.Driver{memory.New(backends.Capabilities{}), memory.New(backends.Capabilities{Stages: true})} {
		m := backends.NewMount("vault", one, backends.Options{})
		_, before := m.Stager()
		if _, after := daemon.CrashMount(m).Stager(); before != after || before != has[backends.Stager](one) {
			t.Errorf("%T stages: %v, its mount: %v, wrapped: %v", one, has[backends.Stager](one), before, after)
		}
	}
}

func sameAbilities(t *testing.T, before, after any) {
	t.Helper()
	for name, has := range abilities {
		if has(before) != has(after) {
			t.Errorf("%T is a %s: %v; wrapped: %v", before, name, has(before), has(after))
		}
	}
}
