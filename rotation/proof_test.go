package rotation_test

import (
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/keybroker/keybroker/rotation"
)

// setting returns a number of the environment, to make a simulation longer or to
// repeat one.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text, ok := os.LookupEnv(name)
	if !ok {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// simulated runs the simulation and logs what came of it.
func simulated(t *testing.T, runs int, p population, by rule) tally {
	t.Helper()
	seed := setting(t, "KEYBROKER_SIMULATION_SEED", 1)
	got := simulate(runs, uint64(seed), p, by)
	t.Logf("KEYBROKER_SIMULATION_SEED=%d: %.4f%% wrong; %s", seed, got.percent(), got)
	return got
}

// A revocation that takes from an instant to 23 minutes, during which servers turn
// to and fro: as long as the issuer keeps the budget that it declares, there is no
// false proof, whatever else goes wrong, and there is a proof in the end.
func TestRule12NoFalseProofInAMillionRetirements(t *testing.T) {
	runs := 1_000_000
	if testing.Short() {
		runs = 50_000
	}
	got := simulated(t, setting(t, "KEYBROKER_SIMULATION_RUNS", runs), kept, rule{})
	if got.wrong > 0 || got.stuck > 0 {
		t.Fatalf("%d wrong proofs, and %d retirements never proven; for example number %d", got.wrong, got.stuck, got.example)
	}
	if 10*got.proofs < 9*got.runs {
		t.Fatalf("%d proofs in %d retirements: this shows little", got.proofs, got.runs)
	}
}

// The same simulation finds out a rule that is weaker.
func TestRule12WeakerRulesAreFooled(t *testing.T) {
	for name, weaken := range map[string]func(*rotation.Confirm){
		"one rejection":                    func(c *rotation.Confirm) { c.Rejections, c.Window = 1, 0 },
		"three quick rejections":           func(c *rotation.Confirm) { c.Rejections, c.Window = 3, 0 },
		"a window of half the budget":      func(c *rotation.Confirm) { c.Window /= 2 },
		"a window of 9/10 of the budget":   func(c *rotation.Confirm) { c.Window = c.Window * 9 / 10 },
		"ten rejections, but no spreading": func(c *rotation.Confirm) { c.Rejections, c.Window = 10, 0 },
	} {
		t.Run(name, func(t *testing.T) {
			if got := simulated(t, 20_000, kept, rule{weaken: weaken}); got.wrong == 0 {
				t.Fatal("the simulation does not find out that this rule is too weak")
			}
		})
	}
}

// An issuer acknowledges and forgets, and now and then everything behind an
// address refuses every credential: the control of the same round shows that.
func TestRule13AForgottenRevocationIsNotProven(t *testing.T) {
	forgets := population{loses: true}
	if got := simulated(t, 30_000, forgets, rule{}); got.proofs > 0 {
		t.Fatalf("%d proofs, for example of number %d", got.proofs, got.example)
	}
	blind := func(seen []rotation.Sighting, _ bool) (rotation.Verdict, rotation.Control) {
		seen = slices.Clone(seen)
		for i := range seen {
			seen[i].Control, seen[i].By = rotation.Accepted, rotation.ControlCurrent
		}
		return rotation.Judge(seen, true)
	}
	if got := simulated(t, 20_000, forgets, rule{judge: blind}); got.wrong == 0 {
		t.Fatal("the simulation does not find out that rounds are judged without their control")
	}
}

// What a proof cannot do: beyond the budget that the issuer declares, or where two
// things fail at once, it can be wrong. The shares belong into the documentation.
func TestAProofIsAsGoodAsWhatItRestsOn(t *testing.T) {
	slow := func(times float64) population { return population{takes: times, partly: true, alone: 0.15} }
	for _, c := range []struct {
		name     string
		p        population
		from, to float64 // percent of the retirements that are proven wrongly
	}{
		{"takes the whole budget", slow(1), 0, 0},
		{"takes 1.1 budgets", slow(1.1), 0.5, 2.5},
		{"takes 2 budgets", slow(2), 4, 11},
		{"takes 10 budgets", slow(10), 12, 30},
		{"forgets, and single servers refuse everything", population{loses: true, partly: true}, 0.01, 1},
		{"forgets, and there is no control beside it", population{loses: true, alone: 1}, 0.1, 3},
		{"the clock jumps ahead by a tenth of the budget", population{partly: true, step: 0.1}, 0.005, 0.5},
		{"the clock jumps ahead by the budget", population{partly: true, step: 1}, 0.05, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := simulated(t, 20_000, c.p, rule{}).percent(); got < c.from || got > c.to {
				t.Fatalf("%.4f%% are proven wrongly, where %.3f%% to %.3f%% were", got, c.from, c.to)
			}
		})
	}
}
