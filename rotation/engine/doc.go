// Package engine drives rotations, retirements and deliveries, durably.
//
// The row is the truth. A River job is only a wake-up that carries an id; what
// it wakes (drive) reads the row, asks the pure machine what is due, commits the
// intent, performs the one effect, commits the result, and goes on until there
// is a longer wait. What is due at once is handed over in memory by the process
// that commits it, and a wait of more than two minutes is left to the sweep; River
// has the rest. A job that is lost, repeated or late does no harm: a sweep at
// start and every 10 s wakes whatever is due.
//
// Failure handling, in one place:
//
//   - Death before the intent is committed: nothing happened.
//   - Death after the intent: the row keeps the intent. Its lease keeps other
//     nodes away for as long as the effect may run; then the machine asks for its
//     recovery (mints are looked up by tag, everything else is repeated safely).
//   - No answer: as death after the intent, but at once (Intent.Unheard).
//   - Somebody else moved the row meanwhile: the result loses the compare-and-swap.
//     A credential minted by the loser is recorded as an orphan and retired.
//   - No external call ever runs inside a transaction.
package engine
