// Package program runs an operator's own program for one exchange: one JSON object on
// its standard input, one on its standard output.
//
// The protocol, version 1, is described for whoever writes a program in
// docs/issuers/exec.md. What matters here:
//
//   - A program is started for each exchange, without a shell, with nothing in its
//     environment but what its block says, in a process group of its own, which is
//     killed at the deadline and once the program has ended.
//   - Whether it had its effect is not known where it gave no whole answer, so that is
//     ErrUnavailable. The classes that are final (invalid, denied, …) are only those
//     that it says itself.
//   - Nothing that it writes to its standard error is kept: programs print what they
//     were given. Its own messages are shown unless a secret that it was given, or
//     gives, is in them.
package program
