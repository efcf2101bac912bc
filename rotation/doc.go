// Package rotation holds the two state machines of keybroker, pure: no I/O, no clock.
//
// A Rotation brings a new version of a secret into use:
//
//	queued → minting → staging → verifying → publishing → overlap → retiring → done
//
// and otherwise ends failed, rolled_back, cancelled or superseded. A Retirement
// turns one version off and proves it:
//
//	requested → acknowledged → rejecting → proven_dead
//
// besides unconfirmed, resurrected and unprovable.
//
// Both work alike. Next looks at the record, the facts and the time, and says
// which one effect is due, or until when there is nothing to do. The engine
// commits the intent (Begin), performs the effect, and commits what came of it
// (one of the methods named after outcomes) under compare-and-swap on Revision.
// Every effect can be repeated: a record with an Intent whose lease has run out
// was interrupted, and Next then says how to recover it.
//
// A rotation occupies its secret from queued to overlap (Occupies): at most one
// does so at a time. While it is retiring it only waits for the proof, so that a
// version which cannot be proven dead never keeps its secret from rotating again.
package rotation
