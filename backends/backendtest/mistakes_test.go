package backendtest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
)

const (
	slow    = "a slow vault is waited for as long as there is time"
	unknown = "what was never there is retired and destroyed already"
	hasty   = 20 * time.Millisecond
)

// mistakes are what drivers get wrong, each with the test that must notice.
var mistakes = map[string]struct {
	test   string
	remote bool
	make   func(*altered)
}{
	"nothing reads as an empty value": {"nothing is not found", false, func(a *altered) {
		a.read = func(_ backends.Ref, _ backends.VersionID, v backends.Value, at backends.VersionID, _ error) (backends.Value, backends.VersionID, error) {
			return v, at, nil
		}
	}},
	"the expectation is not looked at": {"publish needs the version that is current", false, func(a *altered) {
		a.publish = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			w.Expect = a.current(ctx, ref)
			return a.full.Publish(ctx, ref, w)
		}
	}},
	"an expectation of nothing is made up": {"publish to nothing refuses an expectation", false, func(a *altered) {
		a.publish = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			if a.current(ctx, ref) == "" {
				w.Expect = ""
			}
			return a.full.Publish(ctx, ref, w)
		}
	}},
	"a look before the write is called compare-and-swap": {"one of many publishers wins", false, func(a *altered) {
		a.publish = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			if a.current(ctx, ref) != w.Expect {
				return "", backends.ErrConflict
			}
			time.Sleep(10 * time.Millisecond) // the vault's, so that the others have looked too
			for {
				w.Expect = a.current(ctx, ref)
				if id, err := a.full.Publish(ctx, ref, w); !errors.Is(err, backends.ErrConflict) {
					return id, err
				}
			}
		}
	}},
	"publish gives another id": {"publish creates", false, func(a *altered) {
		a.publish = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			id, err := a.full.Publish(ctx, ref, w)
			return id + "0", err
		}
	}},
	"whatever version is asked for, the current is given": {"old versions stay readable", false, func(a *altered) {
		a.read = func(ref backends.Ref, _ backends.VersionID, _ backends.Value, _ backends.VersionID, _ error) (backends.Value, backends.VersionID, error) {
			return a.full.Read(context.Background(), ref, "")
		}
	}},
	"spaces are trimmed": {"values come back as they were", false, func(a *altered) {
		a.publish = changed(a, strings.TrimSpace)
	}},
	"bytes become text": {"bytes come back or are refused", false, func(a *altered) {
		a.publish = changed(a, func(s string) string { return strings.ToValidUTF8(s, "?") })
	}},
	"the limit is one too high": {"the largest value fits and one byte more does not", false, func(a *altered) {
		a.caps = func(c backends.Capabilities) backends.Capabilities { c.MaxValueSize--; return c }
	}},
	"the limit is one too low": {"the largest value fits and one byte more does not", false, func(a *altered) {
		a.caps = func(c backends.Capabilities) backends.Capabilities { c.MaxValueSize++; return c }
	}},
	"names lose their case": {"names of every legal character", false, func(a *altered) {
		a.publish = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			ref.Name = strings.ToLower(ref.Name)
			return a.full.Publish(ctx, ref, w)
		}
	}},
	"names are listed backwards": {"list pages in byte order", false, func(a *altered) {
		a.list = func(_ string, _ int, names []string, next string) ([]string, string) {
			slices.Reverse(names)
			return names, next
		}
	}},
	"a page begins where the last one ended": {"list pages in byte order", false, func(a *altered) {
		a.list = func(after string, limit int, names []string, next string) ([]string, string) {
			if after == "" {
				return names, next
			}
			names = append([]string{after}, names...)
			return names[:min(limit, len(names))], next
		}
	}},
	"no more than 100 names are listed": {"many secrets are listed in pages", false, func(a *altered) {
		a.list = func(_ string, _ int, names []string, next string) ([]string, string) {
			if len(names) > 100 {
				return names[:100], ""
			}
			return names, next
		}
	}},
	"the capabilities change": {"capabilities are constant", false, func(a *altered) {
		asked := 0
		a.caps = func(c backends.Capabilities) backends.Capabilities { asked++; c.Binary = asked < 3; return c }
	}},
	"a check leaves something behind": {"a usable vault checks out", false, func(a *altered) {
		a.check = func(ctx context.Context) error {
			_, err := a.full.Publish(ctx, backends.Ref{Tenant: backends.DefaultTenant, Name: "check"}, backends.Write{Value: sized(50)})
			return err
		}
	}},
	"versions are described newest first": {"describe tells what read does", false, func(a *altered) {
		a.describe = func(d backends.Description, err error) (backends.Description, error) {
			slices.Reverse(d.Versions)
			return d, err
		}
	}},
	"the note is one write behind": {"the note is about the last write", false, func(a *altered) {
		a.describe = func(d backends.Description, err error) (backends.Description, error) { d.Note.Version--; return d, err }
	}},
	"the current version can be retired": {"retire refuses the current version", false, func(a *altered) {
		a.retire = func(context.Context, backends.Ref, backends.VersionID) error { return nil }
	}},
	"retiring what is retired fails": {"retire takes a version out of use", false, func(a *altered) {
		retired := false
		a.retire = func(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
			if retired {
				return backends.ErrNotFound
			}
			retired = true
			return a.full.Retire(ctx, ref, id)
		}
	}},
	"a retired version keeps its stage": {"a staged version can be retired", false, func(a *altered) {
		a.retire = func(context.Context, backends.Ref, backends.VersionID) error { return nil }
	}},
	"destroy does nothing": {"destroy removes for good", false, func(a *altered) {
		a.destroy = func(context.Context, backends.Ref, backends.VersionID) error { return nil }
	}},
	"destroy removes the current version": {"destroy refuses the current version", false, func(a *altered) {
		a.destroy = func(context.Context, backends.Ref, backends.VersionID) error { return nil }
	}},
	"an error quotes the value": {"publish needs the version that is current", false, func(a *altered) {
		a.publish = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			id, err := a.full.Publish(ctx, ref, w)
			if err != nil {
				err = fmt.Errorf("writing %v: %w", w.Value.Reveal(), err)
			}
			return id, err
		}
	}},
	"a staged version is current": {"a staged version is not current", false, func(a *altered) {
		a.stage = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			return a.full.Publish(ctx, ref, w)
		}
	}},
	"each stage is a version": {"staging twice is one version", false, func(a *altered) {
		n := 0
		a.stage = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			n++
			w.Token += fmt.Sprint(n)
			return a.full.Stage(ctx, ref, w)
		}
	}},
	"promote does not look": {"promote needs the version that is current", false, func(a *altered) {
		a.promote = func(ctx context.Context, ref backends.Ref, id, _ backends.VersionID) error {
			return a.full.Promote(ctx, ref, id, a.current(ctx, ref))
		}
	}},
	"promoting twice fails": {"promote makes a staged version current", false, func(a *altered) {
		a.promote = func(ctx context.Context, ref backends.Ref, id, expect backends.VersionID) error {
			if a.current(ctx, ref) != expect {
				return backends.ErrConflict
			}
			return a.full.Promote(ctx, ref, id, expect)
		}
	}},
	"two promoters win": {"one of many promoters wins", false, func(a *altered) {
		a.promote = func(ctx context.Context, ref backends.Ref, id, _ backends.VersionID) error {
			for {
				if err := a.full.Promote(ctx, ref, id, a.current(ctx, ref)); !errors.Is(err, backends.ErrConflict) {
					return err
				}
			}
		}
	}},
	"a cancelled context is overlooked": {"a cancelled context ends every call", false, func(a *altered) {
		a.every = func(ctx context.Context, err error) error {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}},
	"no answer is taken for no secret": {"every fault is unavailable", true, func(a *altered) {
		a.read = func(_ backends.Ref, _ backends.VersionID, v backends.Value, at backends.VersionID, err error) (backends.Value, backends.VersionID, error) {
			if errors.Is(err, backends.ErrUnavailable) {
				err = backends.ErrNotFound
			}
			return v, at, err
		}
	}},
	"no answer is taken for a refusal": {"a mount gets over every fault", true, func(a *altered) {
		a.every = func(_ context.Context, err error) error {
			if errors.Is(err, backends.ErrUnavailable) {
				err = backends.ErrDenied
			}
			return err
		}
	}},
	"a write without an answer is written again": {"a lost answer makes no second version", true, func(a *altered) {
		a.publish = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			id, err := a.full.Publish(ctx, ref, w)
			if errors.Is(err, backends.ErrUnavailable) {
				w.Expect = a.current(ctx, ref)
				return a.full.Publish(ctx, ref, w)
			}
			return id, err
		}
	}},
	"a time limit of its own": {slow, true, func(a *altered) {
		a.publish = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			ctx, cancel := context.WithTimeout(ctx, hasty)
			defer cancel()
			return a.full.Publish(ctx, ref, w)
		}
	}},
	"a time limit of its own for stages": {slow, true, func(a *altered) {
		a.stage = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			ctx, cancel := context.WithTimeout(ctx, hasty)
			defer cancel()
			return a.full.Stage(ctx, ref, w)
		}
	}},
	"a time limit of its own for promotions": {slow, true, func(a *altered) {
		a.promote = func(ctx context.Context, ref backends.Ref, id, expect backends.VersionID) error {
			ctx, cancel := context.WithTimeout(ctx, hasty)
			defer cancel()
			return a.full.Promote(ctx, ref, id, expect)
		}
	}},
	"a time limit of its own for checks": {slow, true, func(a *altered) {
		a.check = func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, hasty)
			defer cancel()
			return a.full.Check(ctx)
		}
	}},
	// This one notices only who runs out of time in this very call, not before it.
	"who runs out of time is told that it is done": {slow, true, func(a *altered) {
		a.retire = func(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
			if ctx.Err() != nil {
				return backends.ErrUnavailable
			}
			err := a.full.Retire(ctx, ref, id)
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil
			}
			return err
		}
	}},
	"who runs out of time is told that the version is another's": {slow, true, func(a *altered) {
		a.destroy = func(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
			if ctx.Err() != nil {
				return backends.ErrUnavailable
			}
			err := a.full.Destroy(ctx, ref, id)
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return backends.ErrConflict
			}
			return err
		}
	}},
	"how long to wait is forgotten": {"how long to wait is passed on", true, func(a *altered) {
		a.every = func(_ context.Context, err error) error {
			if _, ok := backends.RetryAfter(err); ok {
				return backends.ErrUnavailable
			}
			return err
		}
	}},
	"what is not there cannot be retired": {unknown, false, func(a *altered) {
		a.retire = func(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
			if _, _, err := a.full.Read(ctx, ref, id); err != nil {
				return err
			}
			return a.full.Retire(ctx, ref, id)
		}
	}},
	"an id is any number": {unknown, false, func(a *altered) {
		a.destroy = func(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
			n, _ := strconv.Atoi(string(id))
			return a.full.Destroy(ctx, ref, backends.VersionID(strconv.Itoa(n)))
		}
	}},
	"what was deleted is not found by a writer": {"what somebody else deleted is gone", false, func(a *altered) {
		a.publish = func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
			if w.Expect != "" && a.current(ctx, ref) == "" {
				return "", backends.ErrNotFound
			}
			return a.full.Publish(ctx, ref, w)
		}
	}},
	"a login is for ever": {"a revoked login is renewed", true, func(a *altered) {
		refused := false
		a.every = func(_ context.Context, err error) error {
			if refused {
				return backends.ErrDenied
			}
			return err
		}
		a.read = func(_ backends.Ref, _ backends.VersionID, v backends.Value, at backends.VersionID, err error) (backends.Value, backends.VersionID, error) {
			refused = true
			return v, at, err
		}
	}},
	"a refusal is taken for an outage": {"refused credentials are denied", true, nil},
}

func changed(a *altered, text func(string) string) func(context.Context, backends.Ref, backends.Write) (backends.VersionID, error) {
	return func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
		fields := w.Value.Reveal()
		for name := range fields {
			fields[name] = text(fields[name])
		}
		w.Value = backends.NewValue(fields)
		return a.full.Publish(ctx, ref, w)
	}
}
