package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// seals decodes the seal blocks; without one, a key file in data_dir is the seal.
func (l *loader) seals(blocks []*hclsyntax.Block, listener *hclsyntax.Block) {
	for _, b := range blocks {
		s, ok := l.seal(b)
		if !ok {
			continue
		}
		if i := slices.IndexFunc(l.cfg.Seals, s.same); i >= 0 {
			l.mistake(b.DefRange(), "The same seal is there twice",
				fmt.Sprintf("The first is at %s. Each has a key of its own, so that one is left where another is lost.", place(l.cfg.Seals[i].Range)))
			continue
		}
		l.cfg.Seals = append(l.cfg.Seals, s)
		if s.Type == SealFile {
			l.colocated(s, b, listener)
		}
	}
	if len(blocks) == 0 {
		s := Seal{Type: SealFile, File: FileSeal{Path: filepath.Join(l.cfg.DataDir, sealKeyFile)}}
		l.cfg.Seals = append(l.cfg.Seals, s)
		l.colocated(s, nil, listener)
	}
}

// SameSeals tells whether two configurations have the same seals, in any order.
func SameSeals(a, b []Seal) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(s Seal) bool { return !slices.ContainsFunc(b, s.same) })
}

// same tells whether two blocks are about one key.
func (s Seal) same(other Seal) bool {
	return s.Type == other.Type && s.File.Path == other.File.Path && reflect.DeepEqual(s.Config, other.Config)
}

func (l *loader) seal(b *hclsyntax.Block) (Seal, bool) {
	var header struct {
		Type string `hcl:"type,label"`
	}
	if firstLabel(b) == SealFile {
		return l.fileSeal(b)
	}
	known, ok := l.reg.Seals[firstLabel(b)]
	if !ok {
		if l.block(b, &header, anything{}) {
			l.oneOf("seal", b, header.Type, append(slices.Sorted(maps.Keys(l.reg.Seals)), SealFile)...)
		}
		return Seal{}, false
	}
	cfg := known.New()
	decoded := l.block(b, &header, cfg)
	if len(b.Labels) != 1 {
		return Seal{}, false
	}
	return Seal{Type: header.Type, Config: cfg, Range: b.DefRange()}, l.check(known, cfg, b, !decoded)
}

func (l *loader) fileSeal(b *hclsyntax.Block) (Seal, bool) {
	var spec struct {
		Type              string `hcl:"type,label"`
		Path              string `hcl:"path,optional"`
		InsecureColocated bool   `hcl:"insecure_colocated,optional"`
	}
	if !l.block(b, &spec) {
		return Seal{}, false
	}
	s := Seal{Type: SealFile, Range: b.DefRange(), File: FileSeal{Path: l.path(spec.Path), InsecureColocated: spec.InsecureColocated}}
	if spec.Path == "" {
		s.File.Path = filepath.Join(l.cfg.DataDir, sealKeyFile)
	}
	return s, true
}

// colocated refuses a key file beside the data off loopback. b is its block, if it
// has one.
func (l *loader) colocated(s Seal, b, listener *hclsyntax.Block) {
	if loopback(l.cfg.Listener.Address) || s.File.InsecureColocated || !inside(s.File.Path, l.cfg.DataDir) {
		return
	}
	where := at(listener, "address") // off loopback, so there is a block
	if b != nil {
		where = at(b, "path")
	}
	l.mistake(where, "Off loopback the seal's key may not lie beside the data: who copies data_dir could open every secret",
		`Write seal "file" { path = … } with a path outside data_dir, or insist with insecure_colocated = true.`)
}

func inside(path, dir string) bool {
	path, err1 := filepath.Abs(path)
	dir, err2 := filepath.Abs(dir)
	rel, err3 := filepath.Rel(dir, path)
	outside := rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator))
	return err1 != nil || err2 != nil || (err3 == nil && !outside)
}
