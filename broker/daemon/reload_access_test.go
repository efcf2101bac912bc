package daemon_test

import "testing"

// TestReloadTellsWhatChangesForWhom: the blocks that say who may do what, and what
// requests are held to, are told as changed like all others.
func TestReloadTellsWhatChangesForWhom(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	before := s.hcl
	s.hcl = replaced(t, before,
		`listener "tcp" {`, `listener "tcp" {
  max_request_size = "2MiB"`,
		"trigger \"api\" \"ci\" {", "trigger \"api\" \"ci\" {\n  tenant  = \"default\"") + `
tenant "acme" {
  limits {
    requests_per_minute = 600
  }
}
role "app" {
  policies = ["reader"]
}
audit "file" {
  path = "` + s.dir + `/audit-copy.jsonl"
}
notifier "log" "console" {}
alert "all" {
  notifier = "console"
}
`
	const added = "added alert all, added audit file, changed listener tcp, added notifier console, added role app, added tenant acme, changed trigger ci"
	if got := changesOf(n.reload(t)); got != added {
		t.Errorf("it did: %s", got)
	}
	s.hcl = replaced(t, s.hcl, "requests_per_minute = 600", "requests_per_minute = 700", `policies = ["reader"]`, `policies = ["root"]`,
		`notifier = "console"`, "notifier = \"console\"\n  repeat   = \"1h\"", "audit-copy", "audit-second")
	if got := changesOf(n.reload(t)); got != "changed alert all, changed audit file, changed role app, changed tenant acme" {
		t.Errorf("it did: %s", got)
	}
	s.hcl = before
	const back = "removed alert all, removed audit file, changed listener tcp, removed notifier console, removed role app, removed tenant acme, changed trigger ci"
	if got := changesOf(n.reload(t)); got != back {
		t.Errorf("it did: %s", got)
	}
}
