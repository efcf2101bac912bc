package client

import (
	"net/url"
	"strconv"
	"time"
)

// The states of a secret.
const (
	SecretActive    = "active"
	SecretRotating  = "rotating"
	SecretPaused    = "paused"
	SecretUnmanaged = "unmanaged" // known, but no longer rotated
)

// The stages of a version.
const (
	StagePending  = "pending"
	StageCurrent  = "current"
	StagePrevious = "previous" // overlap: still valid, until OverlapUntil
	StageRetired  = "retired"
)

// DefaultTenant is the tenant of what names none.
const DefaultTenant = "default"

// Secret is a named credential, without its value. All times of the API are
// RFC 3339 in UTC; those that do not exist are omitted.
type Secret struct {
	Name           string            `json:"name"`
	Tenant         string            `json:"tenant"`
	Backend        string            `json:"backend"`
	Mirrors        []Mirror          `json:"mirrors"`
	Drift          []Drift           `json:"drift"` // of the backend and the mirrors
	Labels         map[string]string `json:"labels"`
	Issuer         string            `json:"issuer"`
	Probe          string            `json:"probe,omitempty"`
	Consumers      []string          `json:"consumers,omitempty"`
	Schedule       string            `json:"schedule,omitempty"` // cron expression
	Policy         string            `json:"policy,omitempty"`   // the rotation policy that its settings come from
	Pair           string            `json:"pair,omitempty"`     // of secrets that never rotate within each other's overlap
	State          string            `json:"state"`
	Generation     int64             `json:"generation"` // only grows, also on rollback
	NextRotationAt time.Time         `json:"next_rotation_at,omitzero"`
	Versions       []Version         `json:"versions"` // the newest 50 and every older one that may still be alive, oldest first
}

// Mirror is a second backend that follows the primary one.
type Mirror struct {
	Backend string `json:"backend"`
	State   string `json:"state"`             // InStep, Behind, Drifted or StateUnknown
	Version int    `json:"version,omitempty"` // that it held last
}

// Version is one credential of a secret.
type Version struct {
	Number       int         `json:"number"`
	Stage        string      `json:"stage"`
	CreatedAt    time.Time   `json:"created_at,omitzero"`
	PublishedAt  time.Time   `json:"published_at,omitzero"`
	OverlapUntil time.Time   `json:"overlap_until,omitzero"`
	Retirement   *Retirement `json:"retirement,omitempty"`
	// Foreign: the broker did not have it made; it was imported or adopted.
	Foreign bool `json:"foreign,omitempty"`
	// HandleMissing: nobody has said what its issuer calls it, so that the broker
	// cannot have it revoked.
	HandleMissing bool `json:"handle_missing,omitempty"`
}

// Current returns the number of the current version, 0 if there is none.
func (s Secret) Current() int {
	for _, v := range s.Versions {
		if v.Stage == StageCurrent {
			return v.Number
		}
	}
	return 0
}

// Value is a version of a secret with its fields.
type Value struct {
	Name       string `json:"name"`
	Version    int    `json:"version"`
	Generation int64  `json:"generation"`
	Fields     Fields `json:"fields"`
	// Encodings is for the JSON alone: it names the fields that are "base64" there,
	// since they are no UTF-8 text. In Fields they are as they are.
	Encodings      Encodings      `json:"encodings,omitempty"`
	PublishedAt    time.Time      `json:"published_at,omitzero"`
	NextRotationAt time.Time      `json:"next_rotation_at,omitzero"`
	Previous       *PreviousValue `json:"previous,omitempty"`

	ETag string `json:"-"` // of the answer, for ValueIfChanged; empty if a version was asked for by its number
}

// PreviousValue is the version that is still valid in the overlap.
type PreviousValue struct {
	Version   int       `json:"version"`
	Fields    Fields    `json:"fields"`
	Encodings Encodings `json:"encodings,omitempty"` // as in Value
	Until     time.Time `json:"until,omitzero"`
}

// SecretQuery selects secrets.
type SecretQuery struct {
	Prefix string // of the name
	Page
}

func (q SecretQuery) values() url.Values {
	v := q.Page.values()
	set(v, "prefix", q.Prefix)
	return v
}

// Page is one page of a list.
type Page struct {
	Limit int    // items, at most 1000; 0: as the server chooses
	After string // List.Next of the page before
}

func (p Page) values() url.Values {
	v := url.Values{}
	set(v, "after", p.After)
	if p.Limit > 0 {
		v.Set("limit", strconv.Itoa(p.Limit))
	}
	return v
}

func set(v url.Values, key, value string) {
	if value != "" {
		v.Set(key, value)
	}
}

// List is one page of a list; Next is empty on the last one.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// RotateRequest asks for a rotation now.
type RotateRequest struct {
	Reason string `json:"reason,omitempty"`
	// IgnoreWindow: it begins although the maintenance window is closed.
	IgnoreWindow bool `json:"ignore_window,omitempty"`
}

// RevokeRequest asks to turn one version off and to prove it. The current
// version is refused outside an emergency.
type RevokeRequest struct {
	Version int    `json:"version"`
	Reason  string `json:"reason,omitempty"`
}

// How an emergency contains.
const (
	RevokeFirst  = "revoke_first"  // at once
	ReplaceFirst = "replace_first" // when the replacement is published, or after replace_within
)

// EmergencyRequest declares the live versions of a secret compromised.
type EmergencyRequest struct {
	Reason   string `json:"reason"`
	Contain  string `json:"contain,omitempty"`  // RevokeFirst or ReplaceFirst; empty: as the policy says
	Versions []int  `json:"versions,omitempty"` // compromised; empty: every one that is not known to be dead
	// Overwrite: the replacement may be written over a value in the vault that is none
	// of the broker's.
	Overwrite bool `json:"overwrite,omitempty"`
}

// PauseRequest stops a secret from rotating, except in an emergency.
type PauseRequest struct {
	Reason string `json:"reason,omitempty"`
}

// EventRequest is an inbound event. The same ID again is the same event.
type EventRequest struct {
	ID     string `json:"id"`
	Secret string `json:"secret"`
	Reason string `json:"reason,omitempty"`
}

// KeyCheckRequest carries a broker-issued API key, for those who cannot send it
// as a bearer token.
type KeyCheckRequest struct {
	Key SecretText `json:"key"`
}

// KeyCheck says whether a broker-issued API key works; the rest is empty if not.
type KeyCheck struct {
	Active  bool   `json:"active"`
	Secret  string `json:"secret,omitempty"`
	Tenant  string `json:"tenant,omitempty"`
	Version int    `json:"version,omitempty"`
}
