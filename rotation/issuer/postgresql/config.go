package postgresql

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/postgresconn"
)

// Config is the block `issuer "postgresql" NAME`: the server, and as whom roles are
// changed there. Which roles is said by each secret.
type Config struct {
	Conn     postgresconn.Config   `hcl:",remain"`
	Username string                `hcl:"username" from:"secret"` // needs CREATEROLE; see Issuer.Check
	Password backends.SecretString `hcl:"password"`

	// RevocationBudget is how long a new password may take to reach every server that
	// is probed, such as replicas; default 1m.
	RevocationBudget *time.Duration `hcl:"revocation_budget,optional"`
	Timeout          time.Duration  `hcl:"timeout,optional"` // of one operation, default 30s
}

const (
	defaultBudget  = time.Minute
	defaultTimeout = 30 * time.Second
)

// Validate returns every mistake in c, joined, each an ErrInvalid in one line that
// begins with the attribute's name. It opens nothing.
func (c Config) Validate() error {
	mistakes := []error{c.Conn.Validate()}
	wrong := func(text string) { mistakes = append(mistakes, fmt.Errorf("%w: %s", backends.ErrInvalid, text)) }
	if c.Username == "" || strings.ContainsRune(c.Username, 0) {
		wrong("username is empty: name the role that changes the others")
	}
	if c.Password == "" || strings.ContainsAny(c.Password.Reveal(), "\x00\n\r") {
		wrong("password is empty or has more than one line: login is by SCRAM-SHA-256, which needs one")
	}
	if c.RevocationBudget != nil && *c.RevocationBudget < 0 {
		wrong(`revocation_budget is negative: write "0s" if there is one server only`)
	}
	if c.Timeout < 0 {
		wrong("timeout is negative: leave it out for 30s")
	}
	return errors.Join(mistakes...)
}

// settings is what a secret asks of the issuer: the role whose password is set in
// place, or those whose passwords are set in turn.
type settings struct {
	Role  string   `json:"role"`
	Roles []string `json:"roles"`
}

// slots are the roles; nil if the settings are none.
func slots(raw json.RawMessage) []string {
	s, problems := parse(raw)
	if len(problems) > 0 {
		return nil
	}
	return s.slots()
}

func (s settings) slots() []string {
	if s.Role != "" {
		return []string{s.Role}
	}
	return s.Roles
}

// maxName is the length of a role's name in bytes; the server cuts off what is longer.
const maxName = 63

func parse(raw json.RawMessage) (s settings, problems []string) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(&s)
	if err == nil && len(bytes.TrimSpace(raw)) > 0 && bytes.TrimSpace(raw)[0] != '{' {
		err = io.ErrUnexpectedEOF // null
	}
	if err != nil {
		return s, []string{`there are two settings: roles = ["orders_a", "orders_b"], whose passwords are set in turn, or role = "orders", whose password is set in place`}
	}
	switch {
	case s.Role != "" && len(s.Roles) > 0:
		problems = append(problems, "role and roles exclude each other: roles alternate and give an overlap, a single role has none")
	case s.Role == "" && len(s.Roles) == 0:
		problems = append(problems, `role or roles is missing: write roles = ["orders_a", "orders_b"], or role = "orders" where no second one can be had`)
	case len(s.Roles) == 1:
		problems = append(problems, fmt.Sprintf("roles has only one role: write role = %q if it is to be set in place, or add the second", s.Roles[0]))
	}
	for i, name := range s.slots() {
		switch {
		case name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsRune(name, 0):
			problems = append(problems, fmt.Sprintf("%q is no name of a role: it has 1 to %d bytes", name, maxName))
		case strings.HasPrefix(name, "pg_"):
			problems = append(problems, fmt.Sprintf("%q is one of the server's own roles", name))
		case slices.Contains(s.slots()[:i], name):
			problems = append(problems, fmt.Sprintf("%q is listed twice", name))
		}
	}
	return s, problems
}
