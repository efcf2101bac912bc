// Package webhook tells consumers of their secrets: it builds, seals, signs and sends
// one delivery (Standard Webhooks 1.0.0 carrying a CloudEvents 1.0.2 event).
//
// A delivery has one id, the same in every attempt, by which a receiver tells a
// repetition; timestamp and signature are those of the attempt. The same message gives
// the same body, except that each sealing draws new keys. Which delivery is due when,
// and in which order, is the engine's business.
package webhook
