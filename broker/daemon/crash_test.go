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
	"github.com/keybroker/keybroker/rotation/issuer/apikey"
	"github.com/keybroker/keybroker/rotation/issuer/awsiam"
	issuerhttp "github.com/keybroker/keybroker/rotation/issuer/httpapi"
	"github.com/keybroker/keybroker/rotation/issuer/human"
	"github.com/keybroker/keybroker/rotation/issuer/postgresql"
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
	"issuer.Checker":         has[issuer.Checker],
	"issuer.KeyChecker":      has[issuer.KeyChecker],
	"issuer.Lister":          has[issuer.Lister],
	"issuer.Person":          has[issuer.Person],
	"issuer.Remover":         has[issuer.Remover],
	"issuer.SessionEnder":    has[issuer.SessionEnder],
	"issuer.Setter":          has[issuer.Setter],
	"issuer.Shaper":          has[issuer.Shaper],
	"issuer.UseReporter":     has[issuer.UseReporter],
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
	issuers := []issuer.Issuer{new(apikey.Issuer), new(issuerhttp.Issuer), new(issuerhttp.FindingIssuer), new(postgresql.Issuer), new(awsiam.Issuer), new(human.Issuer)}
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
