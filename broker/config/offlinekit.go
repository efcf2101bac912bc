package config

import (
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends/seal"
)

const defaultKitInterval = 5 * time.Minute

// offlineKit decodes where the file is kept that contains when the broker is down, and who
// can open it.
func (l *loader) offlineKit(b *hclsyntax.Block) {
	if b == nil {
		return
	}
	spec := struct {
		Path           string        `hcl:"path,optional"`
		Recipients     []string      `hcl:"recipients,optional"`
		RecipientsFile string        `hcl:"recipients_file,optional"`
		Interval       time.Duration `hcl:"interval,optional"`
		Credentials    bool          `hcl:"credentials,optional"`
	}{Interval: defaultKitInterval, Credentials: true}
	if !l.block(b, &spec) {
		return
	}
	const whoOpens = `Write recipients = ["age1…"]: the public keys that age-keygen prints, of who can open it.`
	switch {
	case len(spec.Recipients) == 0 && spec.RecipientsFile == "":
		l.mistake(b.DefRange(), "Nobody could open the offline kit", whoOpens)
	case len(spec.Recipients) > 0 && spec.RecipientsFile != "":
		l.mistake(at(b, "recipients_file"), "recipients and recipients_file are both there", "Leave one of both out.")
	}
	for i, text := range spec.Recipients {
		if _, err := seal.ParseRecipients([]string{text}); err != nil {
			l.mistake(element(b, "recipients", i), "This is no public key of age", whoOpens)
		}
	}
	if spec.Interval < time.Second || spec.Interval > day {
		l.mistake(at(b, "interval"), "The offline kit is written every second at most and once a day at least", fmt.Sprintf("Write for instance interval = %q.", defaultKitInterval))
	}
	kit := &OfflineKit{Recipients: spec.Recipients, RecipientsFile: spec.RecipientsFile, Interval: spec.Interval, NoCredentials: !spec.Credentials,
		Dir: l.opts.Dir, LookupEnv: l.opts.lookupEnv()}
	if spec.Path != "" {
		kit.Path = l.path(spec.Path)
	}
	l.cfg.OfflineKit = kit
}
