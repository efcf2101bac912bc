// Package postgresserver runs a throw-away PostgreSQL for tests.
package postgresserver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Password stands in every URL; tests look for it where it must not be. The
// server itself trusts whoever reaches its socket.
const Password = "canary-postgres-password"

const startTimeout = 60 * time.Second

// Server is one fresh database on a server that the whole test binary shares.
type Server struct {
	URL      string // postgres://postgres:<Password>@/<Database>?host=<SocketDir>
	Database string
	Socket   string // directory of the server's Unix socket

	// Of StartTCP only: Start's server has no TCP port.
	Address string // "127.0.0.1:PORT"
	CAFile  string // PEM of who signed the certificate that it shows there, which is of 127.0.0.1, not of localhost

	cluster *cluster
}

// Start returns a fresh, empty database, which is dropped when t ends. The
// server behind it is started by the first call and lives as long as the test
// binary, however that ends. Without PostgreSQL's binaries t fails.
func Start(t testing.TB) *Server {
	t.Helper()
	return start(t, shared)
}

// StartDurable is Start on a server of its own that syncs every commit to disk,
// as real ones do: for measuring.
func StartDurable(t testing.TB) *Server {
	t.Helper()
	return start(t, sharedDurable)
}

func start(t testing.TB, cluster func() (*cluster, error)) *Server {
	t.Helper()
	c, err := cluster()
	if err != nil {
		t.Fatalf("starting PostgreSQL: %v", err)
	}
	s := &Server{Database: fmt.Sprintf("test_%d", c.names.Add(1)), Socket: c.dir, Address: c.address, CAFile: c.caFile, cluster: c}
	s.URL = c.url(s.Database)
	c.admin(t, "CREATE DATABASE "+s.Database)
	t.Cleanup(func() { c.admin(t, "DROP DATABASE IF EXISTS "+s.Database+" WITH (FORCE)") })
	return s
}

var (
	shared        = sync.OnceValues(func() (*cluster, error) { return startCluster(quick, false) })
	sharedDurable = sync.OnceValues(func() (*cluster, error) { return startCluster("", false) })
	sharedTCP     = sync.OnceValues(func() (*cluster, error) { return startCluster(quick, true) })
)

// quick are settings under which a crash may lose everything.
const quick = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"

type cluster struct {
	dir     string // holds socket, data and log
	address string // of its TCP port; empty: it has none
	caFile  string
	stop    *os.File
	names   atomic.Int64
}

func (c *cluster) url(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", Password), Path: "/" + database,
	}
	query := url.Values{"host": {c.dir}, "sslmode": {"disable"}}
	if c.address != "" {
		query.Set("port", c.port())
	}
	u.RawQuery = query.Encode()
	return u.String()
}

func (c *cluster) admin(t testing.TB, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.url("postgres"))
	if err != nil {
		t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// supervise runs the server until its standard input is closed, which happens
// at the latest when the test binary dies, and then removes everything.
const supervise = `
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c max_connections=200 $3 &
server=$!
cat >/dev/null
kill -QUIT $server
wait $server
rm -rf "$2"
`

func startCluster(settings string, tcp bool) (*cluster, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "keybroker-pg-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	if err := c.start(bin, settings, tcp); err != nil {
		if c.stop == nil { // nobody else removes it
			err = errors.Join(err, os.RemoveAll(dir))
		} else {
			err = errors.Join(err, c.stop.Close())
		}
		return nil, err
	}
	return c, nil
}

func (c *cluster) start(bin, settings string, tcp bool) error {
	attr, err := unprivileged(c.dir)
	if err != nil {
		return err
	}
	if err := c.initialise(bin, attr); err != nil {
		return err
	}
	if tcp {
		more, err := c.listen(attr)
		if err != nil {
			return fmt.Errorf("preparing a TCP port: %w", err)
		}
		settings += more
	}

	log, err := os.Create(filepath.Join(c.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	input, stop, err := os.Pipe()
	if err != nil {
		return err
	}
	defer input.Close()
	server := exec.Command("/bin/sh", "-c", supervise, "sh", bin, c.dir, settings)
	server.Stdin, server.Stdout, server.Stderr = input, log, log
	server.SysProcAttr, server.Dir = attr, c.dir
	if err := server.Start(); err != nil {
		return errors.Join(err, stop.Close())
	}
	c.stop = stop
	return c.await()
}

// initialise makes the data directory. Text is in English order where the
// version can (from 15 on), not in byte order, as on most real servers.
func (c *cluster) initialise(bin string, attr *syscall.SysProcAttr) error {
	run := func(args ...string) ([]byte, error) {
		initdb := exec.Command(filepath.Join(bin, "initdb"), args...)
		initdb.SysProcAttr, initdb.Dir = attr, c.dir
		return initdb.CombinedOutput()
	}
	args := []string{"-D", filepath.Join(c.dir, "data"), "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"}
	if help, err := run("--help"); err == nil && strings.Contains(string(help), "--icu-locale") {
		args = append(args, "--locale-provider=icu", "--icu-locale=en-US")
	}
	if out, err := run(args...); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// await returns when the server answers.
func (c *cluster) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, c.url("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(c.dir, "log"))
			return fmt.Errorf("it does not answer: %w; its log: %s", err, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// unprivileged returns attributes for the server's processes, which must not
// run as root, and gives them dir. They get a process group of their own, so
// that an interrupt from the terminal reaches only us.
func unprivileged(dir string) (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() != 0 {
		return attr, nil
	}
	var uid, gid uint64
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ = strconv.ParseUint(u.Uid, 10, 32)
		gid, _ = strconv.ParseUint(u.Gid, 10, 32)
		break
	}
	if uid == 0 {
		return nil, errors.New("we are root, which PostgreSQL refuses, and there is neither a user postgres nor nobody")
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, os.Chown(dir, int(uid), int(gid))
}

// binaries returns the directory of initdb and postgres. The PATH is asked
// last: some distributions put wrappers there.
func binaries() (string, error) {
	var dirs []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin",
	} {
		found, _ := filepath.Glob(pattern)
		slices.Reverse(found) // the newest version first
		dirs = append(dirs, found...)
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, dir := range dirs {
		if executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", errors.New("its binaries initdb and postgres are not installed: run `make deps`, " +
		"or install the package postgresql of your distribution")
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
