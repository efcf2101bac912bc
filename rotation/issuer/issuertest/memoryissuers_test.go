package issuertest_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// What an issuer of each kind is: with values made by the broker, shown once and
// found by tag, shown once and listed, and set in slots.
type (
	prepared struct{ *minting }
	found    struct{ *minting }
	listed   struct{ *minting }
	minting  struct{ *base }
	setting  struct{ *base }
)

func (i prepared) CheckSettings(s json.RawMessage) []string { return i.base.CheckSettings(s) }
func (i found) CheckSettings(s json.RawMessage) []string    { return i.base.CheckSettings(s) }
func (i listed) CheckSettings(s json.RawMessage) []string   { return i.base.CheckSettings(s) }
func (i setting) CheckSettings(s json.RawMessage) []string  { return i.base.CheckSettings(s) }

func prepare(req issuer.Request) (backends.Value, error) {
	if req.Key.Prefix != "" {
		return value(req.Key.Prefix + "-refused-" + rand.Text()), nil
	}
	return value("canary-" + rand.Text()), nil
}

func (i prepared) Prepare(req issuer.Request) (backends.Value, error) { return prepare(req) }
func (i setting) Prepare(req issuer.Request) (backends.Value, error)  { return prepare(req) }

// Issue makes a credential in two steps: it is created, and it is named.
func (i *minting) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	key := req.Prepared.Reveal()["key"]
	if key == "" {
		key = "canary-" + rand.Text()
	}
	var c *cred
	err := i.step(ctx, func() (err error) {
		c, err = i.create(req, key)
		return err
	})
	if err != nil {
		return issuer.Credential{}, err
	}
	if i.wrong == "it is named later" {
		if err := i.step(ctx, func() error { c.tag = req.Tag; return nil }); err != nil {
			return issuer.Credential{}, err
		}
	}
	handle := issuer.Handle{"id": c.id}
	switch i.wrong {
	case "the value is cut off":
		key = key[:10]
	case "the handle tells the value":
		handle["id"] = key
	case "a field is not declared":
		return issuer.Credential{Value: backends.NewValue(map[string]string{"key": key, "more": "x"}), Handle: handle}, nil
	}
	return issuer.Credential{Value: value(key), Handle: handle}, nil
}

func (i *minting) create(req issuer.Request, key string) (*cred, error) {
	if strings.Contains(key, "refused") || req.Subject.Labels["refused"] != "" {
		switch i.wrong {
		case "a refusal is not final":
			return nil, unavailable("refused")
		case "an error quotes the value":
			return nil, fmt.Errorf("%w: not %q", backends.ErrInvalid, key)
		case "what is refused is made":
			i.creds = append(i.creds, &cred{id: "refused", tag: req.Tag, ref: req.Subject.Ref, key: key})
		}
		return nil, fmt.Errorf("%w: refused", backends.ErrInvalid)
	}
	held := i.held(req.Subject)
	for _, c := range held {
		if req.Prepared.IsZero() || c.tag != req.Tag || i.wrong == "a repeated request makes another" {
			continue
		}
		if c.key != key && i.wrong == "another value is taken" {
			c.key = key
		}
		if c.key != key {
			return nil, fmt.Errorf("%w: another value", backends.ErrConflict)
		}
		return c, nil
	}
	if i.limit > 0 && len(held) >= i.limit {
		switch i.wrong {
		case "the limit is an outage":
			return nil, unavailable("too many")
		case "at the limit the oldest goes":
			held[0].gone = true
		default:
			return nil, fmt.Errorf("%w: too many", backends.ErrConflict)
		}
	}
	i.serial++
	c := &cred{id: fmt.Sprint("id-", i.serial), tag: req.Tag, ref: req.Subject.Ref, key: key}
	switch i.wrong {
	case "it is named later":
		c.tag = "unnamed"
	case "two at once make two":
		i.system.mu.Unlock()
		time.Sleep(20 * time.Millisecond) // the system's, so that the others have looked, too
		i.system.mu.Lock()
	}
	i.creds = append(i.creds, c)
	return c, nil
}

func (i *minting) byID(sub issuer.Subject, h issuer.Handle) *cred {
	for _, c := range i.held(sub) {
		if c.id == h["id"] {
			return c
		}
	}
	return nil
}

// Revoke takes two steps, too, of which the first changes nothing.
func (i *minting) Revoke(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	var c *cred
	err := i.step(ctx, func() error {
		if c = i.byID(sub, h); c != nil && i.wrong == "half a revocation is taken for one" {
			c.id += " (revoked)" // and not found again
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case c == nil && i.wrong == "what is unknown cannot be revoked":
		return backends.ErrNotFound
	case c == nil:
		return nil
	}
	return i.step(ctx, func() error {
		switch i.wrong {
		case "revoke does nothing":
			return nil
		case "revoke ends all of the subject":
			for _, o := range i.held(sub) {
				o.off = true
			}
		}
		c.off = true
		c.gone = i.traits.Soak == 0 || i.wrong == "revoke removes"
		return nil
	})
}

func (i prepared) Find(ctx context.Context, sub issuer.Subject, tag string) ([]issuer.Found, error) {
	return i.minting.find(ctx, sub, tag)
}

func (i found) Find(ctx context.Context, sub issuer.Subject, tag string) ([]issuer.Found, error) {
	return i.minting.find(ctx, sub, tag)
}

func (i *minting) find(ctx context.Context, sub issuer.Subject, tag string) (list []issuer.Found, err error) {
	err = i.step(ctx, func() error {
		for _, c := range i.creds {
			same := c.tag == tag
			switch i.wrong {
			case "tags are found by their beginning":
				same = strings.HasPrefix(c.tag, tag)
			case "case does not count in tags":
				same = strings.EqualFold(c.tag, tag)
			}
			if same && c.ref == sub.Ref && (!c.gone || i.wrong == "revoked ones are found") {
				list = append(list, issuer.Found{Handle: issuer.Handle{"id": c.id}, Tag: tag})
			}
		}
		return nil
	})
	return list, err
}

func (i listed) List(ctx context.Context, sub issuer.Subject) (handles []issuer.Handle, err error) {
	err = i.step(ctx, func() error {
		for _, c := range i.creds {
			switch {
			case c.gone || c.ref != sub.Ref && i.wrong != "the list is of all tenants":
			case c.off && i.wrong == "disabled ones are not listed":
			default:
				handles = append(handles, issuer.Handle{"id": c.id})
			}
		}
		if i.wrong == "the first page is listed" && len(handles) > 1 {
			handles = handles[:1]
		}
		return nil
	})
	return handles, err
}

func (i listed) Remove(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	return i.step(ctx, func() error {
		c := i.byID(sub, h)
		switch {
		case c == nil && i.wrong == "what was removed cannot be removed":
			return backends.ErrNotFound
		case c == nil || i.wrong == "remove does nothing":
			return nil
		}
		c.gone, c.off = true, true
		return nil
	})
}

func (i listed) EndSessions(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	return i.step(ctx, func() error {
		for _, c := range i.creds {
			ends := c.ref == sub.Ref && (c.id == h["id"] || i.wrong == "all sessions are ended")
			for _, alive := range c.sessions {
				*alive = *alive && (!ends || i.wrong == "sessions go on")
			}
		}
		return nil
	})
}

func (i listed) LastUsed(ctx context.Context, sub issuer.Subject, h issuer.Handle) (use issuer.Use, err error) {
	err = i.step(ctx, func() error {
		c := i.byID(sub, h)
		switch {
		case c == nil:
			return fmt.Errorf("%w: %w", backends.ErrNotFound, errGone)
		case i.wrong == "every use is told of all":
			for _, o := range i.held(sub) {
				if o.used.After(use.At) {
					use.At = o.used
				}
			}
			return nil
		case i.wrong == "the last use is told in another zone" && !c.used.IsZero():
			use.At = c.used.Add(2 * time.Hour)
			return nil
		}
		use = issuer.Use{At: c.used, Where: "memory"}
		return nil
	})
	return use, err
}

func (i listed) Check(ctx context.Context, sub issuer.Subject) []issuer.Finding {
	if i.wrong == "a check makes a credential" {
		_, _ = i.Issue(ctx, issuer.Request{Subject: sub, Tag: "check"})
	}
	var list []issuer.Finding
	for _, what := range []string{"create", "delete"} {
		f := issuer.Finding{What: "may " + what + " keys of " + sub.Ref.Name}
		err := i.step(ctx, func() error { return nil })
		switch {
		case i.wrong == "all is always well":
		case err != nil:
			f.Problem, f.Mend = err.Error(), "give the right credentials"
		case i.lacking == what && i.wrong == "some permission is missing":
			f = issuer.Finding{What: "may do all", Problem: "may not", Mend: "allow it"}
		case i.lacking == what:
			f.Problem, f.Mend = "it may not", "allow it to "+what
		}
		list = append(list, f)
	}
	return list
}

// The issuer of slots.

func (i setting) handle(req issuer.Request) issuer.Handle {
	return issuer.Handle{"slot": req.Slot, "tag": req.Tag}
}

func (i setting) SlotOf(h issuer.Handle) string {
	if i.wrong == "a handle is of any slot" {
		return i.traits.Slots[0]
	}
	return h["slot"]
}

func (i setting) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	name, key := req.Slot, req.Prepared.Reveal()["key"]
	if i.wrong == "there is one slot only" {
		name = i.traits.Slots[0]
	}
	err := i.step(ctx, func() error {
		if strings.Contains(key, "refused") {
			return fmt.Errorf("%w: refused", backends.ErrInvalid)
		}
		at := i.at(req.Subject, name)
		late := req.Version != at.version && req.Version <= at.highest
		switch i.wrong {
		case "a late value is set":
			late = false
		case "an empty slot takes every value":
			late = late && at.version > 0
		case "a repeated request revives":
			late = late && req.Version != at.highest
		}
		if late {
			return fmt.Errorf("%w: the slot holds version %d", backends.ErrConflict, at.version)
		}
		at.tag, at.key, at.version, at.highest = req.Tag, key, req.Version, max(at.highest, req.Version)
		return nil
	})
	if err != nil {
		return issuer.Credential{}, err
	}
	return issuer.Credential{Value: req.Prepared, Handle: i.handle(req)}, nil
}

func (i setting) Revoke(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	return i.step(ctx, func() error {
		at := i.at(sub, h["slot"])
		if at.tag == h["tag"] || i.wrong == "a late revocation ends the newer one" {
			at.tag, at.key, at.version = "", "", 0
		}
		return nil
	})
}

func (i setting) Find(ctx context.Context, sub issuer.Subject, tag string) (list []issuer.Found, err error) {
	err = i.step(ctx, func() error {
		for _, name := range i.traits.Slots {
			if at := i.at(sub, name); at.tag == tag || i.wrong == "what a slot held before is found" && at.tag != "" && at.tag > tag {
				list = append(list, issuer.Found{Handle: issuer.Handle{"slot": name, "tag": tag}, Tag: tag})
			}
		}
		return nil
	})
	return list, err
}

func (i setting) PutBack(ctx context.Context, req issuer.Request, h issuer.Handle, over int) error {
	done := false
	err := i.step(ctx, func() error {
		at := i.at(req.Subject, h["slot"])
		done = i.wrong == "half put back is taken for all" && at.highest > over
		if i.wrong == "what was put back is put back no more" && at.version == req.Version {
			return backends.ErrConflict
		}
		if i.wrong != "what is put back from can be set again" {
			at.highest = max(at.highest, over)
		}
		if i.wrong == "half put back is taken for all" {
			at.highest = max(at.highest, over+1)
		}
		return nil
	})
	if err != nil || done {
		return err
	}
	return i.step(ctx, func() error {
		at := i.at(req.Subject, h["slot"])
		at.tag, at.key, at.version = h["tag"], req.Prepared.Reveal()["key"], req.Version
		return nil
	})
}

var (
	_ issuer.Finder       = prepared{}
	_ issuer.Finder       = found{}
	_ issuer.Lister       = listed{}
	_ issuer.Remover      = listed{}
	_ issuer.SessionEnder = listed{}
	_ issuer.UseReporter  = listed{}
	_ issuer.Checker      = listed{}
	_ issuer.Setter       = setting{}
)
