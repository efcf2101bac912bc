package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Raise is something that people should be told.
type Raise struct {
	Kind    string // "unconfirmed", "resurrected", "new_root_token", "break_glass", …
	Tenant  string // empty: of none
	Subject string // what it is about, such as a retirement's id: one kind of one subject is one alert
	Node    string // the only node that can tell whether it is over; empty: all can, or people
	Text    string // for people, without secrets
	Next    string // the command to run next
}

// Alert is something that people are told until it is over.
type Alert struct {
	ID string
	Raise
	Count      int // times that it was raised
	OpenedAt   time.Time
	LastAt     time.Time // raised last
	SeenAt     time.Time // by Node
	AckedAt    time.Time // zero: nobody has said that they look after it
	AckedBy    string
	AckReason  string
	ResolvedAt time.Time // zero: it is open
	SettledAt  time.Time // everybody who was told of it was told that it is over
	Revision   int64
}

// Open tells whether the alert is not over.
func (a Alert) Open() bool { return a.ResolvedAt.IsZero() }

const alertColumns = `id, kind, tenant, subject, node, text, next, count, opened_at, last_at, seen_at,
	acked_at, acked_by, ack_reason, resolved_at, settled_at, revision`

func scanAlert(r row) (a Alert, err error) {
	err = r.Scan(&a.ID, &a.Kind, &a.Tenant, &a.Subject, &a.Node, &a.Text, &a.Next, &a.Count, instant{&a.OpenedAt}, instant{&a.LastAt},
		instant{&a.SeenAt}, instant{&a.AckedAt}, &a.AckedBy, &a.AckReason, instant{&a.ResolvedAt}, instant{&a.SettledAt}, &a.Revision)
	return a, err
}

// quiet is for how long after an acknowledgement that ended an alert what it is about
// is no news: who has acknowledged it knows that it goes on.
const quiet = 15 * time.Minute

// RaiseAlert opens the alert with the transaction, or counts it once more if it is
// open, or was ended by an acknowledgement just now: then with the new text.
func (tx *Tx) RaiseAlert(ctx context.Context, r Raise) error {
	now := tx.now()
	n, err := tx.t.exec(ctx, `UPDATE alerts SET count = count + 1, text = $1, next = $2, last_at = $3, revision = revision + 1
		WHERE kind = $4 AND tenant = $5 AND subject = $6 AND resolved_at = acked_at AND acked_at > $7`,
		r.Text, r.Next, micros(now), r.Kind, r.Tenant, r.Subject, micros(now.Add(-quiet)))
	if err != nil {
		return fmt.Errorf("raising the alert %s: %w", r.Kind, err)
	}
	if n > 0 {
		return nil
	}
	return tx.raise(ctx, r, `count = alerts.count + 1, text = excluded.text, next = excluded.next,
		last_at = excluded.last_at, seen_at = excluded.seen_at, revision = alerts.revision + 1`)
}

// OpenAlert opens the alert unless it is open: a sweep has found what it is about
// once more, which is no news.
func (tx *Tx) OpenAlert(ctx context.Context, r Raise) error {
	return tx.raise(ctx, r, "seen_at = excluded.seen_at")
}

func (tx *Tx) raise(ctx context.Context, r Raise, again string) error {
	now := micros(tx.now())
	err := tx.execOnly(ctx, "INSERT INTO alerts ("+alertColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8, $8, $8, NULL, '', '', NULL, NULL, 1)
		ON CONFLICT (kind, tenant, subject) WHERE resolved_at IS NULL DO UPDATE SET `+again,
		"alt_"+uuid.Must(uuid.NewV7()).String(), r.Kind, r.Tenant, r.Subject, r.Node, r.Text, r.Next, now)
	if err != nil {
		return fmt.Errorf("raising the alert %s: %w", r.Kind, err)
	}
	return nil
}

// EndAlert says that what an alert was raised for is over, whatever its tenant.
func (tx *Tx) EndAlert(ctx context.Context, kind, subject string) error {
	err := tx.execOnly(ctx, "UPDATE alerts SET resolved_at = $1, revision = revision + 1 WHERE kind = $2 AND subject = $3 AND resolved_at IS NULL", micros(tx.now()), kind, subject)
	if err != nil {
		return fmt.Errorf("ending the alert %s: %w", kind, err)
	}
	return nil
}

// Alert returns an alert by its id.
func (tx *Tx) Alert(ctx context.Context, id string) (Alert, error) {
	a, err := scanAlert(tx.q.queryRow(ctx, "SELECT "+alertColumns+" FROM alerts WHERE id = $1"+tx.lock("alerts"), id))
	if err != nil {
		return Alert{}, fmt.Errorf("reading alert %s: %w", id, err)
	}
	return a, nil
}

// SaveAlert compares and swaps; what it is about, and since when, never changes.
func (tx *Tx) SaveAlert(ctx context.Context, a *Alert) error {
	err := tx.swap(ctx, &a.Revision, `UPDATE alerts SET text = $1, next = $2, acked_at = $3, acked_by = $4, ack_reason = $5,
			resolved_at = $6, settled_at = $7, revision = revision + 1
		WHERE id = $8 AND revision = $9`,
		a.Text, a.Next, nullMicros(a.AckedAt), a.AckedBy, a.AckReason, nullMicros(a.ResolvedAt), nullMicros(a.SettledAt), a.ID, a.Revision)
	if err != nil {
		return fmt.Errorf("saving alert %s: %w", a.ID, err)
	}
	return nil
}

// SeeAlerts notes that the node, which alone can tell, has found its alerts' reasons
// to be there still.
func (tx *Tx) SeeAlerts(ctx context.Context, node string) error {
	err := tx.execOnly(ctx, "UPDATE alerts SET seen_at = $1 WHERE node = $2 AND resolved_at IS NULL", micros(tx.now()), node)
	if err != nil {
		return fmt.Errorf("noting the alerts of node %s: %w", node, err)
	}
	return nil
}

// AlertFilter chooses alerts; what is empty matches all.
type AlertFilter struct {
	Tenant string
	Kind   string
	Open   bool // only those that are not over
}

// AlertsPage lists alerts, the newest first.
func (tx *Tx) AlertsPage(ctx context.Context, by AlertFilter, p Page) ([]Alert, string, error) {
	var f filter
	f.equal("tenant", by.Tenant)
	f.equal("kind", by.Kind)
	if by.Open {
		f.and("resolved_at IS NULL")
	}
	if err := f.before("opened_at", "id", p); err != nil {
		return nil, "", fmt.Errorf("listing alerts: %w", err)
	}
	items, err := all(ctx, tx, scanAlert, "SELECT "+alertColumns+" FROM alerts"+f.where()+
		" ORDER BY opened_at DESC, id DESC"+atMost(f.arg(p.limit()+1)), f.args...)
	if err != nil {
		return nil, "", fmt.Errorf("listing alerts: %w", err)
	}
	items, next := cut(items, p, func(a Alert) string { return cursor(micros(a.OpenedAt), a.ID) })
	return items, next, nil
}

// UnsettledAlerts returns those that are open or of whose end not everybody was
// told, the oldest first.
func (tx *Tx) UnsettledAlerts(ctx context.Context) ([]Alert, error) {
	items, err := all(ctx, tx, scanAlert, "SELECT "+alertColumns+" FROM alerts WHERE settled_at IS NULL ORDER BY opened_at, id")
	if err != nil {
		return nil, fmt.Errorf("reading alerts: %w", err)
	}
	return items, nil
}

// CountAlerts counts the open alerts, by kind.
func (tx *Tx) CountAlerts(ctx context.Context) (map[string]int, error) {
	counts := map[string]int{}
	err := tx.q.query(ctx, func(r row) error {
		var kind string
		var n int
		err := r.Scan(&kind, &n)
		counts[kind] = n
		return err
	}, "SELECT kind, COUNT(*) FROM alerts WHERE resolved_at IS NULL GROUP BY kind")
	if err != nil {
		return nil, fmt.Errorf("counting alerts: %w", err)
	}
	return counts, nil
}

// PruneAlerts forgets what was settled before a time, with its notices.
func (tx *Tx) PruneAlerts(ctx context.Context, before time.Time) error {
	const settled = " FROM alerts WHERE settled_at < $1"
	err := tx.execOnly(ctx, "DELETE FROM alert_notices WHERE alert_id IN (SELECT id"+settled+")", micros(before))
	if err == nil {
		err = tx.execOnly(ctx, "DELETE"+settled, micros(before))
	}
	if err != nil {
		return fmt.Errorf("pruning alerts: %w", err)
	}
	return nil
}

// NoticeState is how far a notifier was told of something.
type NoticeState string

// The states.
const (
	NoticePending NoticeState = "pending" // its Event is to be told
	NoticeSent    NoticeState = "sent"
	NoticeDropped NoticeState = "dropped" // given up, or not worth telling any more
)

// Notice is what one notifier is told of one alert under one rule: an event after
// another, of which it holds the last. The ID of what is sent is that of the notice
// and Seq.
type Notice struct {
	ID        string
	AlertID   string // empty: a heartbeat
	Rule      string
	Notifier  string
	Event     string
	Seq       int // of Event
	State     NoticeState
	Told      int       // events that arrived
	Attempts  int       // at Event
	Error     string    // of the last attempt that failed; empty once one succeeds
	CreatedAt time.Time // when Event was to be told
	SentAt    time.Time // when an event last arrived
	NextAt    time.Time // of the next attempt
	Lease     time.Time // an attempt is under way until then
	Owner     string    // whose
	Revision  int64
}

const noticeColumns = `id, alert_id, rule, notifier, event, seq, state, told, attempts, error,
	created_at, sent_at, next_at, lease_until, owner, revision`

func scanNotice(r row) (n Notice, err error) {
	err = r.Scan(&n.ID, &n.AlertID, &n.Rule, &n.Notifier, &n.Event, &n.Seq, &n.State, &n.Told, &n.Attempts, &n.Error,
		instant{&n.CreatedAt}, instant{&n.SentAt}, instant{&n.NextAt}, instant{&n.Lease}, &n.Owner, &n.Revision)
	return n, err
}

// AddNotice inserts n at revision 1; ErrConflict if the notifier is told already.
func (tx *Tx) AddNotice(ctx context.Context, n *Notice) error {
	err := tx.insert(ctx, "INSERT INTO alert_notices ("+noticeColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 1) ON CONFLICT DO NOTHING`,
		n.ID, n.AlertID, n.Rule, n.Notifier, n.Event, n.Seq, n.State, n.Told, n.Attempts, n.Error,
		micros(n.CreatedAt), nullMicros(n.SentAt), nullMicros(n.NextAt), nullMicros(n.Lease), n.Owner)
	if err != nil {
		return fmt.Errorf("adding a notice to %s: %w", n.Notifier, err)
	}
	n.Revision = 1
	return nil
}

// SaveNotice compares and swaps; whom it tells of what never changes.
func (tx *Tx) SaveNotice(ctx context.Context, n *Notice) error {
	err := tx.swap(ctx, &n.Revision, `UPDATE alert_notices SET event = $1, seq = $2, state = $3, told = $4, attempts = $5, error = $6,
			created_at = $7, sent_at = $8, next_at = $9, lease_until = $10, owner = $11, revision = revision + 1
		WHERE id = $12 AND revision = $13`,
		n.Event, n.Seq, n.State, n.Told, n.Attempts, n.Error,
		micros(n.CreatedAt), nullMicros(n.SentAt), nullMicros(n.NextAt), nullMicros(n.Lease), n.Owner, n.ID, n.Revision)
	if err != nil {
		return fmt.Errorf("saving a notice to %s: %w", n.Notifier, err)
	}
	return nil
}

// Notice returns a notice by its id.
func (tx *Tx) Notice(ctx context.Context, id string) (Notice, error) {
	n, err := scanNotice(tx.q.queryRow(ctx, "SELECT "+noticeColumns+" FROM alert_notices WHERE id = $1"+tx.lock("alert_notices"), id))
	if err != nil {
		return Notice{}, fmt.Errorf("reading notice %s: %w", id, err)
	}
	return n, nil
}

// UnsettledNotices returns those of UnsettledAlerts, and the heartbeats.
func (tx *Tx) UnsettledNotices(ctx context.Context) ([]Notice, error) {
	items, err := all(ctx, tx, scanNotice, "SELECT "+noticeColumns+` FROM alert_notices
		WHERE alert_id = '' OR alert_id IN (SELECT id FROM alerts WHERE settled_at IS NULL) ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("reading notices: %w", err)
	}
	return items, nil
}

// NoticesOf returns what was told, and to whom, of alerts.
func (tx *Tx) NoticesOf(ctx context.Context, alerts []string) ([]Notice, error) {
	if len(alerts) == 0 {
		return nil, nil
	}
	var f filter
	in(&f, "alert_id", alerts)
	items, err := all(ctx, tx, scanNotice, "SELECT "+noticeColumns+" FROM alert_notices"+f.where()+" ORDER BY rule, notifier", f.args...)
	if err != nil {
		return nil, fmt.Errorf("reading notices: %w", err)
	}
	return items, nil
}
