package client

import (
	"net/url"
	"time"
)

// The states of a delivery.
const (
	DeliveryPending    = "pending"
	DeliveryReceived   = "received"   // the consumer answered 2xx
	DeliveryApplied    = "applied"    // it says that it uses the new version
	DeliverySuperseded = "superseded" // a newer generation took its place
	DeliveryDead       = "dead"       // given up
)

// Delivery is one webhook to one consumer.
type Delivery struct {
	ID            string    `json:"id"`
	Consumer      string    `json:"consumer"`
	Secret        string    `json:"secret"`
	Tenant        string    `json:"tenant,omitempty"`
	Version       int       `json:"version"`
	Generation    int64     `json:"generation"`
	Event         string    `json:"event"`
	State         string    `json:"state"`
	Attempts      int       `json:"attempts"`
	Error         string    `json:"error,omitempty"` // of the last attempt
	NextAttemptAt time.Time `json:"next_attempt_at,omitzero"`
	ReceivedAt    time.Time `json:"received_at,omitzero"`
	AppliedAt     time.Time `json:"applied_at,omitzero"`
}

// AcknowledgeRequest says which generation a consumer has put to use.
type AcknowledgeRequest struct {
	Generation int64 `json:"generation"`
}

// DeliveryQuery selects deliveries, the latest first.
type DeliveryQuery struct {
	Secret   string
	Consumer string
	State    string
	Page
}

func (q DeliveryQuery) values() url.Values {
	v := q.Page.values()
	set(v, "secret", q.Secret)
	set(v, "consumer", q.Consumer)
	set(v, "state", q.State)
	return v
}
