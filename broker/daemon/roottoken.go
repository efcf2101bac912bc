package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// RootTokenFile is the name of the file in data_dir that the first start writes
// the root token to.
const RootTokenFile = "root-token"

const rootTokenIssued = "root-token/issued"

// issueRootToken makes the root token at the first start and writes it to
// data_dir, readable by its owner only. The file is written before the token is
// valid, so that none is ever valid and lost.
func (d *Daemon) issueRootToken(ctx context.Context) error {
	err := d.db.View(ctx, func(tx *store.Tx) error {
		_, err := tx.Setting(ctx, rootTokenIssued)
		return err
	})
	if d.opts.NewRootToken && err == nil {
		return d.anotherRootToken(ctx)
	}
	if !errors.Is(err, backends.ErrNotFound) {
		return err
	}
	rec, path, err := d.writeRootToken(ctx, firstRootAction)
	if err != nil {
		return err
	}
	first := false
	err = d.db.Update(ctx, func(tx *store.Tx) error {
		kept, err := tx.PutSettingIfAbsent(ctx, rootTokenIssued, []byte(rec.ID))
		first = string(kept) == rec.ID
		if err != nil || !first {
			return err
		}
		if err := tx.AddToken(ctx, rec); err != nil {
			return err
		}
		return tx.AddAudit(ctx, rootTokenEvent(rec, firstRootAction))
	})
	if err != nil {
		return err
	}
	if !first { // another node was, and its data_dir has the token
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing a root token that is not valid: %w", err)
		}
		return nil
	}
	d.log.Info("the root token was written; it ends in "+authn.RootTTL.String()+", or with the first token or login of an admin role, "+
		"so make such a one with it now (keybroker token create NAME --role ROLE): later it takes a start with --new-root-token", "file", path, "ends", rec.ExpiresAt)
	return nil
}

// anotherRootToken makes a root token although there was one: whoever holds the
// host and the seal can, but not unnoticed.
func (d *Daemon) anotherRootToken(ctx context.Context) error {
	rec, path, err := d.writeRootToken(ctx, newRootAction)
	if err != nil {
		return err
	}
	err = d.db.Update(ctx, func(tx *store.Tx) error {
		if err := tx.AddToken(ctx, rec); err != nil {
			return err
		}
		err := tx.RaiseAlert(ctx, store.Raise{Kind: alert.NewRootToken, Subject: rec.ID,
			Text: fmt.Sprintf("another root token, %s, was made on the host %s by --new-root-token", rec.ID, nodeName()),
			Next: "keybroker token revoke " + rec.ID})
		if err != nil {
			return err
		}
		return tx.AddAudit(ctx, rootTokenEvent(rec, newRootAction))
	})
	if err == nil {
		d.log.Warn("another root token was made, as asked on the command line, and an alert raised; it ends in "+authn.RootTTL.String()+
			", or with the next token or login of an admin role", "file", path, "ends", rec.ExpiresAt)
	}
	return err
}

// writeRootToken makes one and puts it into its file; it is not valid yet. The audit log
// has it as a hash, so that a leaked one is found there.
func (d *Daemon) writeRootToken(ctx context.Context, action string) (store.Token, string, error) {
	rec, token := d.authn.MakeRoot()
	path := filepath.Join(d.opts.Config.DataDir, RootTokenFile)
	if err := writePrivate(path, token); err != nil {
		return store.Token{}, "", fmt.Errorf("writing the root token: %w", err)
	}
	ev := rootTokenEvent(rec, action)
	ev.Kind = rotation.AuditRequest
	if err := d.audit.Write(ctx, audit.Record{AuditEvent: ev, Sensitive: map[string]string{"token": token.Reveal()}}, audit.Synced); err != nil {
		d.log.Error("the hash of the root token is not in the audit log; the event committed with it will be", "token", rec.ID, "error", err)
	}
	return rec, path, nil
}

// The actions of the first root token and of any other.
const (
	firstRootAction = "token.root"
	newRootAction   = "token.new-root"
)

func rootTokenEvent(rec store.Token, action string) rotation.AuditEvent {
	return rotation.AuditEvent{At: now(), Actor: "keybroker", Action: action, Path: "sys/tokens", Outcome: "ok", Detail: map[string]string{"token": rec.ID}}
}

// rootTokenEvery is how often it is looked whether the root token has ended.
const rootTokenEvery = 10 * time.Second

// dropRootToken removes the file of a root token that is good for nothing any more.
func (d *Daemon) dropRootToken(ctx context.Context) {
	path := filepath.Join(d.opts.Config.DataDir, RootTokenFile)
	t := time.NewTicker(rootTokenEvery)
	defer t.Stop()
	for {
		ended := false
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return // it is written before this begins
		}
		if err == nil {
			ended, err = d.authn.Ended(ctx, backends.SecretString(strings.TrimSpace(string(text))))
		}
		if ended {
			if err = os.Remove(path); err == nil {
				d.log.Info("the root token has ended, and its file was removed", "file", path)
				return
			}
		}
		if err != nil && ctx.Err() == nil {
			d.log.Warn("whether the root token has ended cannot be told, or its file not removed", "file", path, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
