package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/keybroker/keybroker/backends/privatefile"
	"github.com/keybroker/keybroker/broker/client"
)

// login is what the last login at a server has left.
type login struct {
	Name      string            `json:"name"`
	Method    string            `json:"method"`
	Role      string            `json:"role"`
	ID        string            `json:"id"` // of the token
	Token     client.SecretText `json:"token"`
	ExpiresAt time.Time         `json:"expires_at,omitzero"`
}

// logins are those of all servers, by their addresses.
type logins map[string]login

// loginsFile is where they are kept, readable by the user alone.
func loginsFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("looking for a place to keep logins: %w", err)
	}
	return filepath.Join(dir, "keybroker", "token.json"), nil
}

// place is the key of this server among logins.
func (a *app) place() string { return strings.TrimSuffix(a.address(), "/") }

// lastLogin returns the login at this server; false if there is none.
func (a *app) lastLogin() (login, bool, error) {
	file, err := loginsFile()
	if err != nil {
		return login{}, false, nil //nolint:nilerr // who has no home has no logins
	}
	all, err := readLogins(file)
	l, ok := all[a.place()]
	return l, ok, err
}

func readLogins(file string) (logins, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the login: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the login: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, &hintError{fmt.Errorf("reading the login: others can read or change %s", file), "chmod 600 " + file + ", and if others could read it: keybroker logout"}
	}
	var all logins
	if err := json.NewDecoder(f).Decode(&all); err != nil {
		return nil, &hintError{fmt.Errorf("reading the login: %s is damaged", file), "remove it and run keybroker login"}
	}
	return all, nil
}

// keepLogin keeps the login at this server instead of the one before, which it returns,
// if there was one; nil removes it.
func (a *app) keepLogin(l *login) (file string, before login, err error) {
	if file, err = loginsFile(); err != nil {
		return "", login{}, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", login{}, fmt.Errorf("keeping the login: %w", err)
	}
	lock := flock.New(file + ".lock")
	if err := lock.Lock(); err != nil {
		return "", login{}, fmt.Errorf("keeping the login: %w", err)
	}
	defer func() { _ = lock.Unlock() }()
	all, err := readLogins(file)
	if err != nil {
		return "", login{}, err
	}
	if all == nil {
		all = logins{}
	}
	before = all[a.place()]
	if delete(all, a.place()); l != nil {
		all[a.place()] = *l
	}
	if err = privatefile.Replace(file, func(w io.Writer) error { return json.NewEncoder(w).Encode(all) }); err != nil {
		return "", login{}, fmt.Errorf("keeping the login: %w", err)
	}
	return file, before, nil
}

// loginToken is the token of the last login at this server; empty: there is none.
func (a *app) loginToken() (string, error) {
	l, ok, err := a.lastLogin()
	if err != nil || !ok {
		return "", err
	}
	if !l.ExpiresAt.IsZero() && !a.now().Before(l.ExpiresAt) {
		return "", &hintError{fmt.Errorf("the login of %s has expired %s", l.Name, relative(l.ExpiresAt, a.now())), "keybroker login"}
	}
	return l.Token.Reveal(), nil
}

// usesLogin tells whether commands call with the token of the last login.
func (a *app) usesLogin() bool {
	token, err := a.findToken()
	l, ok, _ := a.lastLogin()
	return err == nil && ok && token == l.Token.Reveal()
}
