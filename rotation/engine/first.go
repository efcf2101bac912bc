package engine

import "context"

type firstKey struct{}

// First marks what contains: the store lets its transactions go before those of others
// that wait, such as of the replacements of the same emergency.
func First(ctx context.Context) context.Context { return context.WithValue(ctx, firstKey{}, true) }

// IsFirst tells whether ctx is marked by First.
func IsFirst(ctx context.Context) bool { return ctx.Value(firstKey{}) != nil }
