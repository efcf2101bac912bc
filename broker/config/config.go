// Package config reads the HCL files of an operator into a Config, given a
// registry of block types, and reports all mistakes in them at once, each with
// its line and how to mend it.
//
// Secrets reach the configuration by env("NAME") and file("path") alone, and only
// where an attribute's Go type is backends.SecretString; anything else there is
// refused, and neither function can be used anywhere else. Their results never
// pass through the HCL library, which prints values.
//
// In blocks of backends, issuers and probes it can also be secret("NAME").FIELD: a
// secret that the broker itself manages. The Config has a placeholder there, see
// Named.Resolve.
//
// Paths are relative to the directory of the configuration: data_dir, the
// arguments of file(), and every attribute whose name ends in "_file".
package config

import (
	"encoding/json"
	"io"
	"net/netip"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// Config is a whole configuration without mistakes, defaults worked in. Lists are
// in the order of the files. It is never changed once loaded.
type Config struct {
	DataDir          string
	Listener         Listener
	Storage          Storage
	Seals            []Seal // at least one
	Backends         []*Backend
	Issuers          []*Issuer
	Probes           []*Probe
	RotationPolicies []policy.RotationPolicy
	Policies         []policy.Policy
	Consumers        []*Consumer
	Secrets          []*Secret
	Triggers         []*Trigger
	Tenants          []*Tenant
	Auths            []*Auth
	Roles            []*Role
	AuditSinks       []*AuditSink
	Notifiers        []*Notifier
	Alerts           []*Alert
	Telemetry        Telemetry
	Emergency        Emergency
	OfflineKit       *OfflineKit // nil: none is kept

	backends map[string]*Backend
	issuers  map[string]*Issuer
	policies map[string]*hclsyntax.Block // by name

	rotationPolicies map[string]*hclsyntax.Block // by name
	consumers        map[string]*Consumer
	timings          *timings
	secrets          map[backends.Ref]*Secret
}

// Listener is where the daemon is called.
type Listener struct {
	Address        string // host:port
	TLSCertFile    string // with TLSKeyFile; both empty: plain HTTP
	TLSKeyFile     string
	TLSMinVersion  uint16 // tls.VersionTLS13 unless 1.2 was asked for
	AllowPlainHTTP bool   // off loopback, too

	TrustedProxies []netip.Addr  // whose X-Forwarded-For is believed
	MaxRequestSize int64         // bytes of a body
	Limits         RequestLimits // of all who call here
}

// RequestLimits are rates that requests are held to. Zero: the defaults.
type RequestLimits struct {
	PerAddress  policy.Limit
	PerIdentity policy.Limit // where its role has none
	PerTenant   policy.Limit // where its block has none
}

// TLS tells whether the listener speaks HTTPS.
func (l Listener) TLS() bool { return l.TLSCertFile != "" }

// StorageType is a database.
type StorageType string

// The databases.
const (
	SQLite     StorageType = "sqlite"
	PostgreSQL StorageType = "postgresql"
)

// Storage is where the broker keeps its state.
type Storage struct {
	Type StorageType
	Path string                // of SQLite
	URL  backends.SecretString // of PostgreSQL
}

// SealFile is the type of seals that are a key file.
const SealFile = "file"

// Seal is one of the keys that the broker's own are wrapped by.
type Seal struct {
	Type   string
	File   FileSeal  // of the type "file"
	Config any       // of any other: what its Type.New made, decoded
	Range  hcl.Range // of the block's header; empty: the default
}

// FileSeal is a key file, created at first start.
type FileSeal struct {
	Path              string
	InsecureColocated bool // it may lie beside the data although the listener is off loopback
}

// Named is what blocks of registered types have in common.
type Named struct {
	Type   string
	Name   string
	Config any       // what Type.New made, decoded
	Range  hcl.Range // of the block's header

	block      *hclsyntax.Block
	broken     bool   // its block has a mistake
	source     []byte // its tokens
	text       []byte // as it is written
	references []Reference
	resolve    func(value func(Reference) (string, bool)) (any, hcl.Diagnostics) // decodes the block anew
}

// Tenant is a tenant that has a block of its own.
type Tenant struct {
	Name  string
	Limit policy.Limit // of all its identities together; zero: the listener's
	Range hcl.Range
}

// Auth is a way to find out who calls.
type Auth struct {
	Named
}

// Role is what its callers may do.
type Role struct {
	policy.Role
	Range hcl.Range // of the block's header
}

// AuditSink is a place that the audit log is sent to, beside the node's own journal.
type AuditSink struct {
	Named
}

// Notifier is a way to tell people.
type Notifier struct {
	Named
	Tenant      string // whose alerts it tells; empty: those of all
	NoHeartbeat bool   // of NotifierType
}

// Alert says who is told of what.
type Alert struct {
	Name      string
	Tenant    string // empty: of all tenants
	Notifier  string
	On        []string      // kinds of alerts; empty: all
	Repeat    time.Duration // how often one that is still open is told again; 0: once
	Escalate  *Escalation   // nil: nobody else is told
	Heartbeat time.Duration // how often it is told that nothing needs telling; 0: never
	Range     hcl.Range     // of the block's header
}

// Escalation says who else is told of what nobody has acknowledged.
type Escalation struct {
	After    time.Duration
	Notifier string
}

// Telemetry is how the node itself is watched.
type Telemetry struct {
	Prometheus  bool   // /metrics is served; by default it is
	Address     string // host:port of a listener of its own, where nobody is asked who they are; empty: on the API's, which asks
	SecretNames bool   // metrics have the names of secrets as labels
}

// Emergency is what is asked of whoever declares one.
type Emergency struct {
	// ApprovalAbove is how many secrets one person may turn off; of more a second person
	// has to approve. 0: of none.
	ApprovalAbove   int
	ApprovalTimeout time.Duration // within which that has to be; after it nothing is done
}

// OfflineKit is the file that contains when the broker is down; see package offline.
type OfflineKit struct {
	Path           string        // that the node keeps; empty: it is only given to who asks for it
	Recipients     []string      // public keys of age of who can open it
	RecipientsFile string        // holds such keys, one a line
	Interval       time.Duration // how often it is written at most
	NoCredentials  bool          // what the issuers log in with is not in it
	Dir            string        // that paths of the configuration are relative to
	LookupEnv      func(string) (string, bool)
}

// Backend is a vault.
type Backend struct {
	Named
	Tenant       string   // whose secrets it may hold; empty: those of all
	Environments []string // that its secrets may belong to by their label "environment"; empty: all
	Limits       backends.Limits
	ReadOnly     bool          // read_only: nothing is ever written there
	DriftCheck   time.Duration // how often what it holds is compared with what it was given; 0: never
	Capabilities backends.Capabilities

	place     string                  // of BackendType
	checkName func(name string) error // of BackendType
}

// Issuer mints and revokes.
type Issuer struct {
	Named
	Tenant string        // whose secrets it may serve; empty: those of all
	Traits issuer.Traits // see For

	place    string                 // that it leads to; empty: nobody can tell
	settings issuer.SettingsChecker // nil: it takes none
	shaper   issuer.Shaper          // nil: its traits are the same for all secrets
	keys     issuer.KeyChecker      // nil: key settings are nothing to it
}

// Probe tries credentials.
type Probe struct {
	Named
	Tenant string // whose secrets it may try; empty: those of all
}

// EnvironmentLabel is the label of a secret that a backend's environments are about.
const EnvironmentLabel = "environment"

// Secret is a secret of the configuration.
type Secret struct {
	Ref       backends.Ref
	Backend   string             // the primary
	Mirrors   []string           // backends that hold its current version as well
	OnDrift   rotation.DriftRule // empty: rotation.DriftReport
	Issuer    string             // empty: nobody rotates it
	Settings  json.RawMessage    // of its issuer block, a JSON object; nil without an issuer
	Probe     string             // empty: none
	Consumers []string
	Labels    map[string]string
	Pair      string          // secrets, of one tenant, that never rotate within each other's overlap; empty: none
	Rotation  policy.Settings // its overrides, Proof among them
	Range     hcl.Range       // of the block's header

	block     *hclsyntax.Block
	unsettled bool // its issuer block has a mistake
}

// Consumer is an application that is told of new versions.
type Consumer struct {
	Name        string
	Tenant      string
	Role        string           // that it reads, collects and acknowledges as; empty: whoever may
	Events      []rotation.Event // beside those that make a version current; nil: all
	Instances   int              // that are to say that they use a version; at least 1
	Concurrency int              // attempts at once on one node, at least 1
	Inbox       bool             // it collects its messages; Endpoint is empty
	Endpoint    webhook.Endpoint
	Payload     webhook.Payload

	PublicKeyFile     string                // of webhook.Sealed
	Signature         webhook.Algorithm     // of the broker's own key; with SigningSecret what that is of
	SigningSecret     backends.SecretString // as webhook.NewSigner takes it; empty, as SigningSecretFile: the broker has its own
	SigningSecretFile string                // holds such secrets, one a line: each signs
	Range             hcl.Range             // of the block's header

	block  *hclsyntax.Block
	source []byte            // its tokens
	digest func(w io.Writer) // of what the source does not show; nil: its block has a mistake
	faulty bool              // it may say otherwise what nobody could read
	reach  *policy.ACL       // what its role may do at some time, from some address; nil: nobody knows
}

// Action is what a trigger does.
type Action string

// The actions.
const (
	ActionRotate    Action = "rotate"
	ActionEmergency Action = "emergency"
)

// Trigger is an event, from outside or noticed within, that may act on secrets.
type Trigger struct {
	Named
	Tenant string // whose secrets it may act on; empty: those of all
	Action Action
	// Secrets and Match.Paths are patterns of the names that it may act on, Match.Labels
	// those that a secret must have besides; with none of them it may act on all.
	Secrets    []string
	Match      policy.Match
	MaxSecrets int           // on how many different secrets it acts within Cooldown
	Cooldown   time.Duration // at least a second
	Reason     string        // stands before what the event says; may be empty
	On         []string      // of the type internal: kinds of alerts (client.SecretAlertKinds)
	Threshold  *Threshold    // of the type internal; nil: none

	acl *policy.ACL // of the patterns; nil: there are none
}

// Threshold is what is no longer usual of one secret, on one node; nil: anything is.
type Threshold struct {
	ReadsPerMinute  *int `hcl:"reads_per_minute,optional"`
	DeniedPerMinute *int `hcl:"denied_per_minute,optional"` // requests for it that were refused
}

const (
	defaultDataDir = "data"
	defaultAddress = "127.0.0.1:8400"
	databaseFile   = "keybroker.db"
	sealKeyFile    = "seal.key"
)
