// Package daemon wires one node together and runs it.
package daemon
