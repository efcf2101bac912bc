package store

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// slogHandler gives what libraries log through slog to an hclog.Logger, from
// level warn on: River tells of every start, stop and batch below that.
type slogHandler struct {
	logger hclog.Logger
	group  string // prefix of keys, with its dot
}

func (h slogHandler) Enabled(_ context.Context, level slog.Level) bool {
	if level >= slog.LevelError {
		return h.logger.IsError()
	}
	return level >= slog.LevelWarn && h.logger.IsWarn()
}

func (h slogHandler) Handle(_ context.Context, r slog.Record) error {
	var args []any
	r.Attrs(func(a slog.Attr) bool {
		args = append(args, h.pair(a)...)
		return true
	})
	if r.Level >= slog.LevelError {
		h.logger.Error(r.Message, args...)
	} else {
		h.logger.Warn(r.Message, args...)
	}
	return nil
}

func (h slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var args []any
	for _, a := range attrs {
		args = append(args, h.pair(a)...)
	}
	return slogHandler{logger: h.logger.With(args...), group: h.group}
}

func (h slogHandler) WithGroup(name string) slog.Handler {
	return slogHandler{logger: h.logger, group: h.group + name + "."}
}

func (h slogHandler) pair(a slog.Attr) []any {
	return []any{h.group + a.Key, fmt.Sprint(a.Value.Resolve())}
}
