// Package webhook tells consumers of new versions: it builds, signs and sends one
// delivery (Standard Webhooks 1.0.0 carrying a CloudEvents 1.0 event).
//
// A delivery has one id and one body, the same bytes in every attempt, so that a
// receiver can tell a repetition; only timestamp and signature are those of the
// attempt. Which delivery is due when, and in which order, is the engine's business.
package webhook
