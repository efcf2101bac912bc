package daemon

import "context"

// OwnKeys are the broker's own keys, by their names.
func (d *Daemon) OwnKeys(ctx context.Context) (map[string][]byte, error) {
	keys := map[string][]byte{}
	for _, name := range []string{keyFingerprint, keyTokenPepper, keyAPIKeyPepper, keyCursors, keyAuditHash, keyAuditSigning, keyReports} {
		key, err := ownKey(ctx, d.db, d.seals.ring, name)
		if err != nil {
			return nil, err
		}
		keys[name] = key
	}
	return keys, nil
}
