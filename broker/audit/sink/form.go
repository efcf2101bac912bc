package sink

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/keybroker/keybroker/broker/audit"
)

// The forms that lines are sent in.
const (
	formJSONL = "jsonl" // the journal's own, which can be verified
	formOCSF  = "ocsf"
	formECS   = "ecs"
)

// form writes a line; nil: it is not for that form (checkpoints are of the journal).
type form func(ln audit.Line, node string) ([]byte, error)

func formOf(name string) form {
	switch name {
	case formOCSF:
		return ocsf
	case formECS:
		return ecs
	}
	return func(ln audit.Line, _ string) ([]byte, error) { return ln.Raw, nil }
}

// lines writes lines one under the other.
func (f form) lines(all []audit.Line, node string) ([]byte, error) {
	var out []byte
	for _, ln := range all {
		text, err := f(ln, node)
		if err != nil {
			return nil, fmt.Errorf("encoding an audit record: %w", err)
		}
		if text != nil {
			out = append(append(out, text...), '\n')
		}
	}
	return out, nil
}

// object is JSON whose empty parts are left out.
type object map[string]any

func (o object) bare() object {
	maps.DeleteFunc(o, func(_ string, v any) bool {
		switch v := v.(type) {
		case string:
			return v == ""
		case object:
			return len(v.bare()) == 0
		case map[string]string:
			return len(v) == 0
		case []string:
			return len(v) == 0
		case int:
			return v == 0
		}
		return v == nil
	})
	return o
}

// verb is what an action does, by its last word.
type verb int

const (
	other verb = iota
	create
	readVerb
	update
	remove
)

var verbs = map[string]verb{
	"create": create, "add": create, "issue": create, "import": create, "mint": create, "snapshot": create, "new-root": create, "login": create,
	"read": readVerb, "list": readVerb, "show": readVerb, "get": readVerb, "status": readVerb, "check": readVerb, "verify": readVerb, "watch": readVerb,
	"plan": readVerb, "query": readVerb, "hash": readVerb, "token": readVerb,
	"delete": remove, "revoke": remove, "remove": remove, "contain": remove,
}

func verbOf(action string) verb {
	word := action[strings.LastIndexByte(action, '.')+1:]
	if v, ok := verbs[word]; ok {
		return v
	}
	return update
}

// ocsf is the API Activity class, 6003, of the Open Cybersecurity Schema Framework 1.3
// (https://schema.ocsf.io/1.3.0/classes/api_activity).
func ocsf(ln audit.Line, node string) ([]byte, error) {
	if ln.Kind == audit.KindCheckpoint {
		return nil, nil
	}
	const class = 6003
	activity := map[verb]int{other: 99, create: 1, readVerb: 2, update: 3, remove: 4}[verbOf(ln.Action)]
	name := map[int]string{99: "Other", 1: "Create", 2: "Read", 3: "Update", 4: "Delete"}[activity]
	severity, severityName := 1, "Informational"
	if ln.Outcome != "ok" {
		severity, severityName = 3, "Medium"
	}
	status, statusName := 1, "Success"
	if ln.Outcome != "ok" {
		status, statusName = 2, "Failure"
	}
	at := ln.At.UnixMilli()
	o := object{
		"class_uid": class, "class_name": "API Activity", "category_uid": 6, "category_name": "Application Activity",
		"activity_id": activity, "activity_name": name, "type_uid": class*100 + activity, "type_name": "API Activity: " + name,
		"time": at, "severity_id": severity, "severity": severityName, "status_id": status, "status": statusName, "status_code": ln.Outcome,
		"actor":        object{"user": object{"uid": ln.Actor, "groups": groups(ln.Role), "org": object{"uid": ln.Tenant}}},
		"api":          object{"operation": ln.Action, "service": object{"name": "keybroker"}, "request": object{"uid": ln.Request}},
		"src_endpoint": endpoint(ln),
		"resources":    []object{object{"name": resource(ln), "type": resourceType(ln), "version": version(ln)}.bare()},
		"metadata": object{"version": "1.3.0", "product": object{"name": "keybroker", "vendor_name": "keybroker"},
			"uid": id(node, ln), "log_name": "audit", "logged_time": at, "tenant_uid": ln.Tenant},
		"unmapped": rest(ln),
	}
	if ln.Index >= 0 {
		o["metadata"].(object)["sequence"] = ln.Index
	}
	return json.Marshal(o.bare())
}

func groups(role string) any {
	if role == "" {
		return nil
	}
	return []object{{"name": role}}
}

// endpoint is where the request came from; OCSF wants one also for what the broker does
// by itself.
func endpoint(ln audit.Line) object {
	if ln.Address == "" || ln.Address == "invalid IP" {
		return object{"name": "keybroker"}
	}
	address, _, _ := strings.Cut(ln.Address, "%") // receivers take no zone
	return object{"ip": address}
}

func resource(ln audit.Line) string {
	if ln.Secret != "" {
		return ln.Secret
	}
	return ln.Path
}

func resourceType(ln audit.Line) string {
	if ln.Secret == "" && strings.HasPrefix(ln.Path, "sys/") {
		return "system"
	}
	return "secret"
}

func version(ln audit.Line) string {
	if ln.Version == 0 {
		return ""
	}
	return fmt.Sprint(ln.Version)
}

// rest is what the schemas have no place for.
func rest(ln audit.Line) object {
	return object{"kind": string(ln.Kind), "path": ln.Path, "secret": ln.Secret, "version": ln.Version, "method": ln.Method, "identity": ln.Identity, "capability": ln.Capability,
		"policy": ln.Policy, "rule": ln.Rule, "hashes": ln.Hashes, "detail": ln.Detail, "prev": ln.Prev}.bare()
}

// ecs is the Elastic Common Schema 8.11
// (https://www.elastic.co/guide/en/ecs/8.11/ecs-event.html); what it has no place for
// is under "keybroker".
func ecs(ln audit.Line, node string) ([]byte, error) {
	if ln.Kind == audit.KindCheckpoint {
		return nil, nil
	}
	category := "configuration"
	if strings.HasPrefix(ln.Action, "auth.") {
		category = "authentication"
	}
	kind := map[verb]string{other: "info", create: "creation", readVerb: "access", update: "change", remove: "deletion"}[verbOf(ln.Action)]
	types := []string{kind}
	if category == "authentication" {
		types = []string{"start"}
	}
	outcome := map[string]string{"ok": "success", "denied": "failure", "failed": "failure"}[ln.Outcome]
	if outcome == "" {
		outcome = "unknown"
	}
	e := object{"kind": "event", "category": []string{category}, "type": types, "action": ln.Action, "outcome": outcome,
		"module": "keybroker", "dataset": "keybroker.audit", "id": id(node, ln)}
	if ln.Index >= 0 {
		e["sequence"] = ln.Index
	}
	o := object{"@timestamp": ln.At.UTC().Format("2006-01-02T15:04:05.000000Z"), "ecs": object{"version": "8.11.0"}, "event": e,
		"user": object{"id": ln.Actor}, "organization": object{"id": ln.Tenant}, "http": object{"request": object{"id": ln.Request}},
		"observer": object{"name": node, "product": "keybroker", "vendor": "keybroker"}, "keybroker": rest(ln)}
	if ln.Role != "" {
		o["user"].(object)["roles"] = []string{ln.Role}
	}
	if ip := endpoint(ln); ip["ip"] != nil {
		o["source"] = object{"ip": ip["ip"], "address": ln.Address}
	}
	return json.Marshal(o.bare())
}
