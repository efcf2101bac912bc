package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/keybroker/keybroker/broker/client"
)

// maxLeaked bounds a text in which a leaked value stands: as much as a request may have.
const maxLeaked = 512 << 10

// leakedValue reads what leaked from a file, or from stdin where path is "-"; on a terminal
// it is typed unseen. The path is in no error: somebody may have given the value itself.
func (a *app) leakedValue(flag, path string) (client.SecretText, error) {
	var b []byte
	var err error
	if path == "-" {
		b, err = a.leakedInput()
	} else {
		b, err = readBounded(path)
	}
	defer clear(b)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", &hintError{usagef("%s: there is no such file", flag),
			"give the value itself on stdin, with - instead of the file; what was typed on the command line may now be in the shell's history"}
	case err != nil:
		return "", fmt.Errorf("reading what leaked: %w", withoutPath(err))
	case len(b) > maxLeaked:
		return "", usagef("%s: it is longer than %d KiB; give the part in which the value stands", flag, maxLeaked>>10)
	case len(b) == 0:
		return "", usagef("%s: it is empty", flag)
	}
	if !utf8.Valid(b) { // JSON has no bytes; what is the base64 of something is looked up as that, too
		return client.SecretText(base64.StdEncoding.EncodeToString(b)), nil
	}
	return client.SecretText(b), nil
}

// leakedInput reads stdin.
func (a *app) leakedInput() ([]byte, error) {
	if _, ok := terminal(a.in); !ok {
		return io.ReadAll(io.LimitReader(a.in, maxLeaked+1))
	}
	fmt.Fprint(a.err, "The leaked value (it is not shown): ")
	defer fmt.Fprintln(a.err)
	return term.ReadPassword(int(a.in.(*os.File).Fd())) // a terminal is a file
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxLeaked+1))
}

// withoutPath is what went wrong with a file, without its name.
func withoutPath(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
