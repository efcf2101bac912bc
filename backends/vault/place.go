package vault

import (
	"cmp"
	"path"
)

// Place names the folder that c leads to, as one path in one server: two
// configurations with the same place are about the same secrets, however they are
// written. Empty where it cannot be told.
//
// A mount is a folder as well: no mount is within another.
func (c Config) Place() string {
	server := c.Conn.Place()
	if server == "" {
		return ""
	}
	return path.Join(server, cmp.Or(trim(c.Mount), DefaultMount), trim(c.PathPrefix))
}
