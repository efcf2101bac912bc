package awsparams

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"unicode/utf8"

	"github.com/keybroker/keybroker/backends"
)

// The broker's note is the end of the parameter's description, which is written by
// the same request as the value, and kept for each version. What somebody else writes
// without a description keeps ours: so the note tells the version that it is about.
const noteForm = "[keybroker version %d, generation %d, written as %s]"

var noteText = regexp.MustCompile(`(?s)^(.*?) ?\[keybroker version (\d+), generation (\d+), written as (\d+)\]$`)

// maxDescription is in characters (API reference of PutParameter).
const maxDescription = 1024

// withNote is a description with a note, or without one if it would be too long.
func withNote(text string, note backends.Note) *string {
	whole := fmt.Sprintf(noteForm, note.Version, note.Generation, note.Of)
	if text != "" {
		whole = text + " " + whole
	}
	if utf8.RuneCountInString(whole) > maxDescription {
		return &text
	}
	return &whole
}

// splitNote undoes withNote. The note is zero where there is none.
func splitNote(description string) (text string, note backends.Note) {
	parts := noteText.FindStringSubmatch(description)
	if parts == nil {
		return description, backends.Note{}
	}
	version, err := strconv.Atoi(parts[2])
	generation, err2 := strconv.ParseInt(parts[3], 10, 64)
	if errors.Join(err, err2) != nil {
		return parts[1], backends.Note{}
	}
	return parts[1], backends.Note{Of: backends.VersionID(parts[4]), Version: version, Generation: generation}
}
