// Package crashtest kills the real daemon with SIGKILL, at named points before
// and after every commit and effect and at random moments, and looks from
// outside whether its promises hold.
//
// Around the daemon stands what survives it: an issuer that keeps a journal of
// its keys (witness), a consumer with a webhook (hook) and one that polls (poller), a Vault. A site is one
// installation: the data directory and address that processes follow each other
// on. TestEveryPoint records the points that each scenario passes and then kills
// at each of them; TestRandomKills lets secrets rotate all the time, under lost
// answers, outages and operators who interfere, and kills whenever it likes; TestKillsDuringAnIncident has many secrets in one
// emergency meanwhile.
//
// The variables: CHAOS_KILLS is the number of random kills, CHAOS_SEED repeats a
// run's dice, CHAOS_SITES is how many sites there are at once; CHAOS_LEAKED is how many secrets are
// in an emergency, CHAOS_LEAKED_SECONDS how long there is one after the other.
package crashtest
