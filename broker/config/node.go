package config

import (
	"fmt"
	"path/filepath"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
)

// node decodes what concerns this process alone: data_dir, listener, storage, seal, telemetry.
func (l *loader) node(doc document, whole *hclsyntax.Body) {
	l.cfg.DataDir = l.path(doc.DataDir)
	if doc.DataDir == "" {
		if attr, ok := whole.Attributes["data_dir"]; ok && len(l.diags) == 0 {
			l.mistake(attr.Expr.Range(), "data_dir is empty", `Write a directory, or leave it out for "data".`)
		}
	}
	l.listener(doc.Listener)
	l.storage(doc.Storage)
	l.seals(doc.Seals, doc.Listener)
	l.telemetry(doc.Telemetry)
}

func (l *loader) storage(b *hclsyntax.Block) {
	l.cfg.Storage = Storage{Type: SQLite, Path: filepath.Join(l.cfg.DataDir, databaseFile)}
	if b == nil {
		return
	}
	var label struct {
		Type string `hcl:"type,label"`
	}
	switch StorageType(firstLabel(b)) {
	case SQLite:
		var spec struct {
			Path string `hcl:"path,optional"`
		}
		if l.block(b, &label, &spec) && spec.Path != "" {
			l.cfg.Storage.Path = l.path(spec.Path)
		}
	case PostgreSQL:
		var spec struct {
			URL backends.SecretString `hcl:"url"`
		}
		l.block(b, &label, &spec)
		l.cfg.Storage = Storage{Type: PostgreSQL, URL: spec.URL}
	default:
		if l.block(b, &label, anything{}) {
			l.oneOf("storage", b, label.Type, string(SQLite), string(PostgreSQL))
		}
	}
}

// oneOf tells whether the block's type is one of known.
func (l *loader) oneOf(kind string, b *hclsyntax.Block, given string, known ...string) bool {
	for _, k := range known {
		if given == k {
			return true
		}
	}
	l.mistake(labelRange(b, 0), fmt.Sprintf("There is no %s %q", kind, given), suggest(given, known))
	return false
}

func labelRange(b *hclsyntax.Block, i int) hcl.Range {
	if i < len(b.LabelRanges) {
		return b.LabelRanges[i]
	}
	return b.DefRange()
}
