package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Secrets lists secrets in the order of their names.
func (c *Client) Secrets(ctx context.Context, q SecretQuery) (List[Secret], error) {
	return do[List[Secret]](ctx, c, api("GET", "secrets").with(q.values()))
}

// Secret returns a secret without its value.
func (c *Client) Secret(ctx context.Context, name string) (Secret, error) {
	return do[Secret](ctx, c, api("GET", "secrets", name))
}

// Value returns the value of a version, or of the current one if version is 0.
func (c *Client) Value(ctx context.Context, name string, version int) (Value, error) {
	v, _, err := c.value(ctx, valueOf(name, version))
	return v, err
}

// ValueIfChanged returns the current value if it is not what the caller has: the
// whole answer counts, also that the previous version is no longer in it. Otherwise
// changed is false. The zero Value is that of who has none.
func (c *Client) ValueIfChanged(ctx context.Context, name string, have Value) (value Value, changed bool, err error) {
	k := valueOf(name, 0)
	if have.ETag != "" {
		k.header = http.Header{"If-None-Match": {have.ETag}}
	}
	return c.value(ctx, k)
}

func (c *Client) value(ctx context.Context, k call) (v Value, changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.open(ctx, k)
	if err != nil {
		return Value{}, false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified {
		return Value{}, false, nil
	}
	err = decode(resp, &v)
	v.ETag = resp.Header.Get("ETag")
	return v, true, err
}

func valueOf(name string, version int) call {
	k := api("GET", "secrets", name, "value")
	if version != 0 {
		k.query = url.Values{"version": {strconv.Itoa(version)}}
	}
	return k
}

// Rotate starts a rotation of a secret.
func (c *Client) Rotate(ctx context.Context, name string, r RotateRequest) (Rotation, error) {
	return do[Rotation](ctx, c, api("POST", "secrets", name, "rotate").send(r))
}

// Revoke turns one version of a secret off, which is then proven.
func (c *Client) Revoke(ctx context.Context, name string, r RevokeRequest) (Retirement, error) {
	return do[Retirement](ctx, c, api("POST", "secrets", name, "revoke").send(r))
}

// Emergency contains and replaces the live versions of a secret. It is
// idempotent while the emergency lasts.
func (c *Client) Emergency(ctx context.Context, name string, r EmergencyRequest) (Rotation, error) {
	return do[Rotation](ctx, c, api("POST", "secrets", name, "emergency").send(r))
}

// Pause keeps a secret from rotating.
func (c *Client) Pause(ctx context.Context, name string, r PauseRequest) (Secret, error) {
	return do[Secret](ctx, c, api("POST", "secrets", name, "pause").send(r))
}

// Resume ends a pause.
func (c *Client) Resume(ctx context.Context, name string) (Secret, error) {
	return do[Secret](ctx, c, api("POST", "secrets", name, "resume"))
}

// Rotations lists rotations.
func (c *Client) Rotations(ctx context.Context, q RotationQuery) (List[Rotation], error) {
	return do[List[Rotation]](ctx, c, api("GET", "rotations").with(q.values()))
}

// Rotation returns one rotation with its steps.
func (c *Client) Rotation(ctx context.Context, id string) (Rotation, error) {
	return do[Rotation](ctx, c, api("GET", "rotations", id))
}

// Retirements lists retirements, without their tries.
func (c *Client) Retirements(ctx context.Context, q RetirementQuery) (List[Retirement], error) {
	return do[List[Retirement]](ctx, c, api("GET", "retirements").with(q.values()))
}

// Retirement returns one retirement: the whole proof.
func (c *Client) Retirement(ctx context.Context, id string) (Retirement, error) {
	return do[Retirement](ctx, c, api("GET", "retirements", id))
}

// Deliveries lists deliveries.
func (c *Client) Deliveries(ctx context.Context, q DeliveryQuery) (List[Delivery], error) {
	return do[List[Delivery]](ctx, c, api("GET", "deliveries").with(q.values()))
}

// Delivery returns one delivery.
func (c *Client) Delivery(ctx context.Context, id string) (Delivery, error) {
	return do[Delivery](ctx, c, api("GET", "deliveries", id))
}

// Acknowledge says of a delivery that an instance of its consumer has it, or uses what
// was delivered.
func (c *Client) Acknowledge(ctx context.Context, id string, r AcknowledgeRequest) (Delivery, error) {
	return do[Delivery](ctx, c, api("POST", "deliveries", id, "ack").send(r))
}

// Event reports an event to a trigger, which starts a rotation.
func (c *Client) Event(ctx context.Context, trigger string, r EventRequest) (Rotation, error) {
	return do[Rotation](ctx, c, api("POST", "events", trigger).send(r))
}

// CreateToken makes a token; only this answer carries it.
func (c *Client) CreateToken(ctx context.Context, r CreateTokenRequest) (Token, error) {
	return do[Token](ctx, c, api("POST", "tokens").send(r))
}

// Tokens lists tokens, without the tokens themselves.
func (c *Client) Tokens(ctx context.Context, p Page) (List[Token], error) {
	return do[List[Token]](ctx, c, api("GET", "tokens").with(p.values()))
}

// RevokeToken ends a token at once.
func (c *Client) RevokeToken(ctx context.Context, id string) (Token, error) {
	return do[Token](ctx, c, api("DELETE", "tokens", id))
}

// CheckKey tells whether a broker-issued API key works. It needs no token.
func (c *Client) CheckKey(ctx context.Context, key SecretText) (KeyCheck, error) {
	check, err := do[KeyCheck](ctx, c, api("POST", "keys", "check").send(map[string]string{"key": key.Reveal()}))
	if Status(err) == http.StatusUnauthorized {
		return KeyCheck{}, nil
	}
	return check, err
}
