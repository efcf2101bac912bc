package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"

	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river"
)

//go:embed migrations/*.sql
var migrations embed.FS

// gooseUp applies our migrations that are missing; they are listed in a table
// of our own, so that the database may also hold somebody else's goose.
func gooseUp(ctx context.Context, dialect goose.Dialect, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(dialect, db, files,
		goose.WithTableName("keybroker_migrations"),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("applying migrations: %w", err)
	}
	return nil
}

// newestMigration is the number of the newest migration that this version knows.
func newestMigration() (newest int64, err error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	for _, name := range files {
		n, numberErr := goose.NumericComponent(path.Base(name))
		newest, err = max(newest, n), errors.Join(err, numberErr)
	}
	return newest, err
}

// insertOnly is the configuration of the client that Enqueue uses: it knows no
// workers, so that jobs can be enqueued before Start and after Stop.
func insertOnly(log *slog.Logger) *river.Config {
	return &river.Config{Logger: log, FetchCooldown: fetchCooldown, MaxAttempts: jobAttempts}
}

func setDefaultWorkers(cfg *river.Config, n int) {
	if q := cfg.Queues[river.QueueDefault]; q.MaxWorkers <= 0 {
		q.MaxWorkers = n
		cfg.Queues[river.QueueDefault] = q
	}
}
