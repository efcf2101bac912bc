// Package loopback chooses addresses for servers that tests start and stop.
package loopback

import (
	"errors"
	"net"
	"os"
	"strconv"
	"sync/atomic"
)

// Ports are taken below those that systems give to outgoing connections and to
// whoever listens on port 0, so that one stays free while its server is not up.
const (
	lowest = 18000
	ports  = 12000
)

var next atomic.Int32

// Address returns an address of this machine, host and port, on which nobody
// listens. No other call in this process returns it, and processes begin far from
// each other.
func Address() (string, error) {
	for range 1000 {
		port := lowest + (os.Getpid()*101+int(next.Add(1)))%ports
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", errors.New("choosing a port: none is free")
}
