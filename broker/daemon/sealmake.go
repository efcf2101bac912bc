package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/config"
)

// unmade is a seal of the configuration that cannot even be asked: its key file is
// missing or not private, say, or the file with its login is. It is one that is away,
// as long as another seal opens the data, and is tried again.
type unmade struct {
	config config.Seal
	id     string // what it is called meanwhile: its own id is derived from the key
	err    error
}

// missing tells whether it is a key file that is not there.
func (u unmade) missing() bool {
	return u.config.Type == config.SealFile && errors.Is(u.err, backends.ErrNotFound)
}

// add makes a seal of the configuration, without asking it anything, or notes why not.
func (s *sealing) add(ctx context.Context, c config.Seal) {
	u := unmade{config: c, id: c.Type}
	switch c.Type {
	case config.SealFile:
		u.id += ":" + c.File.Path
	case seal.TypeKMS:
		u.id += ":" + c.Config.(*seal.KMSConfig).KeyID
	case seal.TypeTransit:
		u.id += ":" + c.Config.(*seal.TransitConfig).Key
	}
	if u.err = s.tryMake(ctx, c); u.err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unmade = append(s.unmade, u)
	s.states[u.id] = sealState{s.now(), u.err}
	s.up(u.id, false)
}

func (s *sealing) tryMake(ctx context.Context, c config.Seal) error {
	made, err := s.load(ctx, c)
	if err == nil {
		err = s.use(made)
	}
	if err != nil {
		return fmt.Errorf("seal %q: %w", c.Type, err)
	}
	return nil
}

func (s *sealing) load(ctx context.Context, c config.Seal) (seal.Seal, error) {
	switch c.Type {
	case config.SealFile:
		return opened(seal.LoadFile(c.File.Path))
	case seal.TypeKMS:
		return opened(seal.OpenKMS(ctx, *c.Config.(*seal.KMSConfig), s.logger))
	case seal.TypeTransit:
		return opened(seal.OpenTransit(ctx, *c.Config.(*seal.TransitConfig), s.logger))
	}
	return nil, unknownType("seal", c.Type)
}

// opened keeps a nil seal from becoming one that is not nil.
func opened[T seal.Seal](made T, err error) (seal.Seal, error) {
	if err != nil {
		return nil, err
	}
	return made, nil
}

// use takes a seal among those that are asked, and closes it with them.
func (s *sealing) use(made seal.Seal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	remote, closes := made.(interface{ Close() })
	if slices.ContainsFunc(s.made, func(other seal.Seal) bool { return other.ID() == made.ID() }) {
		if closes {
			remote.Close()
		}
		return fmt.Errorf("%w: two seals of the configuration are one: %s", backends.ErrInvalid, made.ID())
	}
	if closes {
		s.stops = append(s.stops, remote.Close)
	}
	s.made = append(s.made, made)
	return nil
}

// seals are those that can be asked.
func (s *sealing) seals() []seal.Seal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.made)
}

// notMade are those that cannot.
func (s *sealing) notMade() []unmade {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.unmade)
}

// remake tries again what could not be made. No key file is made here: one that is
// missing may be on a disk that is not mounted, and a new key opens nothing old.
func (s *sealing) remake(ctx context.Context) {
	s.making.Lock()
	defer s.making.Unlock()
	for _, u := range s.notMade() {
		err := s.tryMake(ctx, u.config)
		s.mu.Lock()
		i := slices.IndexFunc(s.unmade, func(other unmade) bool { return other.id == u.id })
		if err != nil {
			s.unmade[i].err = err
			s.states[u.id] = sealState{s.now(), err}
		} else {
			s.unmade = slices.Delete(s.unmade, i, i+1)
			delete(s.states, u.id)
			s.forget(u.id)
			s.logger.Info("a seal can be used again", "seal", u.id)
		}
		s.mu.Unlock()
	}
}

// createMissing makes the key files that are not there, and returns those that it has
// made. It is for data that nothing was sealed in yet, and for recoveries.
func (s *sealing) createMissing() (created []*seal.File, err error) {
	for _, u := range s.notMade() {
		if !u.missing() {
			continue
		}
		made, err := seal.CreateFile(u.config.File.Path)
		if errors.Is(err, backends.ErrConflict) { // another node was faster
			if made, err = seal.LoadFile(u.config.File.Path); err == nil {
				err = s.use(made)
			}
		} else if err == nil {
			created = append(created, made)
			err = s.use(made)
			s.logger.Info("a seal key was made; keep a copy of it, away from the data", "file", made.Path(), "seal", made.ID())
		}
		if err != nil {
			return created, err
		}
		s.mu.Lock()
		s.unmade = slices.DeleteFunc(s.unmade, func(other unmade) bool { return other.id == u.id })
		delete(s.states, u.id)
		s.mu.Unlock()
	}
	return created, nil
}
