package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/keybroker/keybroker/broker/client"
)

// openTerminal gives a terminal on which somebody has typed text.
func openTerminal(t *testing.T, text string) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("there are no terminals here: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	var number, unlock int32
	for request, argument := range map[uintptr]*int32{syscall.TIOCGPTN: &number, syscall.TIOCSPTLCK: &unlock} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), request, uintptr(unsafe.Pointer(argument))); errno != 0 {
			t.Fatal(errno)
		}
	}
	in, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	if _, err := master.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return in
}

// Who drops the key of before, or as good as that, is asked, however that is written.
func TestShortOverlapsAreAskedAbout(t *testing.T) {
	for overlap, asked := range map[string]bool{"0s": true, "0h": true, "0d": true, "0": true, "4m": true, "0d4m": true, "0d6m": false, "5m": false, "7d": false, "soon": false} {
		rotated := 0
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			rotated++
			_, _ = w.Write([]byte(`{"consumer":"shop","keys":[]}`))
		}))
		t.Cleanup(h.Close)
		t.Setenv("KEYBROKER_ADDR", h.URL)
		for typed, done := range map[string]int{"n\n": 0, "y\n": 1} {
			rotated = 0
			var out, errs strings.Builder
			run(t.Context(), []string{"consumer", "rotate-signing", "shop", "--overlap", overlap}, streams{openTerminal(t, typed), &out, &errs})
			if !asked {
				done = 1
			}
			if rotated != done || strings.Contains(errs.String(), "[y/N]") != asked {
				t.Errorf("%s, %q: %d rotations: %s", overlap, typed, rotated, &errs)
			}
		}
	}
}

// TestWhatHasChangedIsAskedAbout: a yes is to what was shown, of interventions and
// of repairs.
func TestWhatHasChangedIsAskedAbout(t *testing.T) {
	for typed, want := range map[string]struct {
		done int
		says string
	}{"y\ny\n": {1, ""}, "y\nn\n": {0, "nothing was done"}} {
		for _, args := range [][]string{{"rotation", "cancel", "r1"}, {"secret", "repair", "a/b"}} {
			looked, done := 0, 0
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var body client.InterventionRequest
				if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
					t.Error(err)
				}
				if body.DryRun {
					looked++
				}
				now := "it goes on"
				if looked > 1 || !body.DryRun { // it changes while the first answer is read
					now = "it ends"
				}
				repair := client.Repair{DryRun: body.DryRun, Findings: []client.Finding{{Kind: "vault", Detail: now, Mend: "write", Mendable: true, Mended: !body.DryRun}}}
				if expect := []string{now}; !body.DryRun && !slices.Equal(body.Expect, expect) && !slices.Equal(body.Expect, repair.Sentences()) {
					problem(w, http.StatusConflict)
					return
				}
				if !body.DryRun {
					done++
				}
				var answer any = map[string]any{"dry_run": body.DryRun, "will": []string{now}, "rotation": client.Rotation{ID: "r1"}}
				if args[1] == "repair" {
					answer = repair
				}
				if err := json.NewEncoder(w).Encode(answer); err != nil {
					t.Error(err)
				}
			}))
			t.Cleanup(h.Close)
			t.Setenv("KEYBROKER_ADDR", h.URL)
			var out, errs strings.Builder
			code := run(t.Context(), args, streams{openTerminal(t, typed), &out, &errs})
			said := errs.String()
			if done != want.done || code != 1-want.done || looked != 2 || !strings.Contains(said, want.says) ||
				!strings.Contains(said, "it has changed meanwhile:\n- it ends") || strings.Count(said, "[y/N]") != 2 {
				t.Errorf("%v, %q: exit %d, looked %d times, done %d times:\n%s", args, typed, code, looked, done, said)
			}
		}
	}
}

// TestATypedValueIsNotShown: it is asked for by its field, and nothing of it comes back.
func TestATypedValueIsNotShown(t *testing.T) {
	in := openTerminal(t, canary+"\nsecond\n")
	var shown strings.Builder
	a := newApp(streams{in: in, err: &shown})
	got, err := a.typedIn([]string{"password", "pin"})
	if err != nil || got["password"] != canary || got["pin"] != "second" || shown.String() != "password: \npin: \n" {
		t.Errorf("%d fields, %v, shown: %q", len(got), err, shown.String())
	}
	if _, err := a.typedIn(nil); err == nil || !strings.Contains(err.Error(), "--field is missing") {
		t.Errorf("without a field: %v", err)
	}
}
