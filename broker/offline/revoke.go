package offline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

const (
	atOnce   = 8                // requests to one issuer
	patience = 30 * time.Second // for one answer
	tries    = 3                // of what is unavailable
	pause    = time.Second      // before the second try; twice that before the third
	silent   = 8                // versions in a row that were unavailable: the issuer is left alone
)

// Item is one version that is to be turned off.
type Item struct {
	Secret  Secret
	Version Version
}

// Outcome is what came of an item.
type Outcome struct {
	Tenant  string `json:"tenant"`
	Secret  string `json:"secret"`
	Version int    `json:"version"`
	Issuer  string `json:"issuer"`
	Result  string `json:"result"` // Revoked, Open, Manual, OnReturn
	Before  bool   `json:"before,omitempty"`
	Error   string `json:"error,omitempty"`
	ByHand  string `json:"by_hand,omitempty"` // how a person turns it off, where that is wanted
}

// Revoker turns off what a kit knows of, with what the kit has.
type Revoker struct {
	Kit     *Kit
	Journal *Journal
	// Open makes an issuer, and tells what ends it, which may be nil.
	Open func(context.Context, Issuer) (issuer.Issuer, func(), error)
	Now  func() time.Time
	Told func(Outcome) // of each, one after the other

	mu   sync.Mutex // of the journal and of Told
	lost error      // the journal can be written no more: nothing is begun any more
}

// Revoke turns the items off, those of different issuers beside each other, and returns
// what came of them. What the journal says was revoked is not done again. The error is of
// the journal: without it nothing is asked of anybody.
func (r *Revoker) Revoke(ctx context.Context, items []Item) ([]Outcome, error) {
	out := make([]Outcome, len(items))
	byIssuer := map[string][]int{}
	for i, it := range items {
		if r.Journal.Revoked(it.Secret.Ref(), it.Version.Number) {
			out[i] = outcome(it, Revoked, nil)
			out[i].Before = true
			r.tell(out[i])
			continue
		}
		byIssuer[it.Version.Issuer] = append(byIssuer[it.Version.Issuer], i)
	}
	var all sync.WaitGroup
	for name, mine := range byIssuer {
		all.Go(func() { r.at(ctx, name, items, mine, out) })
	}
	all.Wait()
	return out, r.lost
}

// at turns off what one issuer made.
func (r *Revoker) at(ctx context.Context, name string, items []Item, mine []int, out []Outcome) {
	block, known := r.Kit.Issuer(name)
	a := asking{r: r, block: block}
	switch {
	case !known:
		a.cannot = fmt.Errorf("%w: the configuration had no issuer %q any more", backends.ErrNotFound, name)
	case block.Type == apiKey || block.Type == atRandom:
	default:
		is, stop, err := r.Open(ctx, block)
		if a.is, a.cannot = is, err; stop != nil {
			defer stop()
		}
	}
	turns := make(chan int)
	var workers sync.WaitGroup
	for range min(atOnce, len(mine)) {
		workers.Go(func() {
			for i := range turns {
				out[i] = a.one(ctx, items[i])
			}
		})
	}
	for _, i := range mine {
		turns <- i
	}
	close(turns)
	workers.Wait()
}

// asking is what is asked of one issuer.
type asking struct {
	r      *Revoker
	block  Issuer
	is     issuer.Issuer
	cannot error

	mu     sync.Mutex
	silent int   // versions in a row that were unavailable
	last   error // of these
}

// one turns one version off.
func (a *asking) one(ctx context.Context, it Item) Outcome {
	if err := a.r.write(it, intended, "", nil); err != nil {
		return a.r.tell(outcome(it, Open, err))
	}
	result, err := a.turnOff(ctx, it)
	o := outcome(it, result, err)
	if err := a.r.write(it, came, o.Result, err); err != nil && o.Result != Revoked {
		o.Error = err.Error()
	}
	return a.r.tell(o)
}

func outcome(it Item, result string, err error) Outcome {
	o := Outcome{Tenant: it.Secret.Tenant, Secret: it.Secret.Name, Version: it.Version.Number, Issuer: it.Version.Issuer, Result: result}
	if err != nil {
		o.Error = err.Error()
	}
	if result != Revoked {
		o.ByHand = it.Version.ByHand
	}
	return o
}

// turnOff asks the issuer, again where it is unavailable.
func (a *asking) turnOff(ctx context.Context, it Item) (result string, err error) {
	switch {
	case a.block.Type == apiKey:
		return OnReturn, nil
	case a.block.Type == atRandom:
		return Manual, nil
	case a.cannot != nil:
		return Open, a.cannot
	}
	if err := a.given(); err != nil {
		return Open, err
	}
	for n := 1; ; n++ {
		err = a.ask(ctx, it)
		if n == tries || !errors.Is(err, backends.ErrUnavailable) || ctx.Err() != nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause * time.Duration(n)):
		}
	}
	a.heard(err)
	switch {
	case err == nil:
		return Revoked, nil
	case errors.Is(err, issuer.ErrByHand), errors.Is(err, errNoHandle):
		return Manual, err
	}
	return Open, err
}

// given tells why nothing more is asked of an issuer that does not answer.
func (a *asking) given() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.silent < silent {
		return nil
	}
	return fmt.Errorf("it was not asked, since the issuer answers nobody: %w", a.last)
}

func (a *asking) heard(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !errors.Is(err, backends.ErrUnavailable) {
		a.silent = 0
		return
	}
	a.silent++
	a.last = err
}

var errNoHandle = errors.New("nobody knows what the issuer calls it")

// ask revokes by the handle, or what has the tag, and ends what was made of it.
func (a *asking) ask(ctx context.Context, it Item) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	sub := issuer.Subject{Ref: it.Secret.Ref(), Labels: it.Secret.Labels, Settings: it.Version.Settings}
	handles := []issuer.Handle{it.Version.Handle}
	if it.Version.Handle == nil {
		finder, can := a.is.(issuer.Finder)
		if !can || it.Version.Tag == "" {
			return errNoHandle
		}
		found, err := finder.Find(ctx, sub, it.Version.Tag)
		if err != nil {
			return err
		}
		if handles = nil; len(found) == 0 {
			return fmt.Errorf("%w: the issuer has nothing under the tag %s", errNoHandle, it.Version.Tag)
		}
		for _, f := range found {
			handles = append(handles, f.Handle)
		}
	}
	for _, h := range handles {
		if err := a.is.Revoke(ctx, sub, h); err != nil {
			return err
		}
		ender, ends := a.is.(issuer.SessionEnder)
		if !ends {
			continue
		}
		if err := ender.EndSessions(ctx, sub, h); err != nil && !errors.Is(err, backends.ErrUnsupported) {
			return fmt.Errorf("it was revoked, but what was made of it goes on: %w", err)
		}
	}
	return nil
}

// write puts a record into the journal. Once that failed nothing is begun any more: nobody
// would know of it.
func (r *Revoker) write(it Item, do, result string, why error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost != nil {
		return r.lost
	}
	rec := Record{At: r.Now(), Do: do, Tenant: it.Secret.Tenant, Secret: it.Secret.Name, Version: it.Version.Number, Issuer: it.Version.Issuer, Result: result}
	if do == intended {
		rec.Last = it.Secret.Last
	}
	if why != nil {
		rec.Error = why.Error()
	}
	r.lost = r.Journal.add(rec)
	return r.lost
}

func (r *Revoker) tell(o Outcome) Outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Told != nil {
		r.Told(o)
	}
	return o
}

// Left are the outcomes that are not revoked.
func Left(all []Outcome) []Outcome {
	return slices.DeleteFunc(slices.Clone(all), func(o Outcome) bool { return o.Result == Revoked })
}
