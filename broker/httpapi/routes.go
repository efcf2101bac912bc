package httpapi

import (
	"net/http"
	"slices"

	"github.com/keybroker/keybroker/broker/ratelimit"
	"github.com/keybroker/keybroker/policy"
)

const root = "/api/v1/"

const (
	inEmergencies = "while an emergency goes on: emergency instead of rotate"
	toOverwrite   = "update as well"
	ofATest       = "of a test of a consumer list or read on the path " + consumerPath + ", or its role"
)

// table is the whole surface. It is data: nothing is served that is not in it.
func table() []Endpoint { return slices.Concat(ofSecrets(), ofIncidents(), ofNodes()) }

// ofSecrets is what is asked of secrets and what becomes of them, and of who is told.
func ofSecrets() []Endpoint {
	rotating := on(policy.Rotate).also(inEmergencies)
	onRecord := rotating.hiding()
	return []Endpoint{
		get("secrets", seen.hiding(), "Lists secrets by name, without their values.", pages(secretQuery, Broker.Secrets)),
		get("secrets/{name}", seen, "Shows a secret: its state and versions, no value.", shows("name", Broker.Secret)),
		get("secrets/{name}/value", on(policy.Read).also("of a version in its overlap read_previous, of a pending one read_pending, instead of read"),
			"Gives the value of the current version, or of the version asked for, with an entity tag.", valueOf()),
		get("secrets/{name}/plan", seen, "Tells what would happen to a secret, when, and what keeps it from happening.", shows("name", Broker.Plan)),
		get("secrets/{name}/consumers", seen, "Tells which consumer was told of what, got it and uses it, and who may still use an older version.", shows("name", Broker.SecretConsumers)),
		post("secrets/{name}/rotate", on(policy.Rotate), "Begins a rotation.", takes(http.StatusAccepted, "name", Broker.Rotate)),
		post("secrets/{name}/revoke", on(policy.Revoke), "Turns one version off, which is then proven.", takes(http.StatusAccepted, "name", Broker.Revoke)).as(ratelimit.Containing),
		post("secrets/{name}/emergency", on(policy.Emergency), "Turns off what is compromised, and replaces it. Idempotent while the emergency lasts.",
			takes(http.StatusAccepted, "name", Broker.Emergency)).as(ratelimit.Containing),
		post("secrets/{name}/pause", on(policy.Update), "Keeps a secret from rotating. Emergencies go on.", takes(http.StatusOK, "name", Broker.Pause)),
		post("secrets/{name}/resume", on(policy.Update), "Ends a pause.", shows("name", Broker.Resume)),
		post("secrets/{name}/repair", rotating.also(inEmergencies+"; with overwrite: "+toOverwrite),
			"Finds what is out of step between the broker and the vault of a secret, and mends it.", takes(http.StatusOK, "name", Broker.Repair)),
		post("secrets/{name}/import", rotating.also(inEmergencies+"; "+toOverwrite+"; with a handle: revoke as well"),
			"Takes over what the vault holds of a secret already.", takes(http.StatusOK, "name", Broker.Import)),
		post("secrets/{name}/drift/check", rotating, "Asks for every backend of a secret to be compared now with what it should hold.",
			takes(http.StatusAccepted, "name", Broker.CheckDrift)),
		post("secrets/{name}/drift/restore", rotating.also(inEmergencies+"; "+toOverwrite), "Writes the current version over what a backend holds.",
			takes(http.StatusOK, "name", Broker.RestoreDrift)),
		post("secrets/{name}/drift/adopt", rotating, "Asks for the value that a backend holds to become the current version, once somebody has approved it.",
			takes(http.StatusOK, "name", Broker.AdoptDrift)),
		get("plans", seen.hiding(), "Tells how each secret rotates: every setting with where it was said, and its next ten rotations.", pages(secretQuery, Broker.EffectivePlans)),
		get("drift", seen.hiding(), "Lists what backends hold of secrets: what is out of step, or all.", pages(driftQuery, Broker.Placements)),

		get("rotations", seen.hiding(), "Lists rotations, the newest first.", pages(rotationQuery, Broker.Rotations)),
		get("rotations/{id}", seen.hiding(), "Shows a rotation with its steps.", shows("id", Broker.Rotation)),
		get("rotations/{id}/events", seen.hiding(), "Streams a rotation and the retirements it waits for, each whenever it changes, until it has ended.", watches(Broker.WatchRotation)),
		post("rotations/{id}/cancel", onRecord, "Cancels a rotation that has not published yet.", takes(http.StatusOK, "id", Broker.Cancel)),
		post("rotations/{id}/retry", onRecord, "Lets a rotation that waits try again at once.", takes(http.StatusOK, "id", Broker.Retry)),
		post("rotations/{id}/approve", on(policy.Approve).hiding().also("not who asked for the rotation"), "Approves a rotation that waits for it.",
			takes(http.StatusOK, "id", Broker.Approve)),
		post("rotations/{id}/rollback", onRecord, "Makes the version of before current again, while it is in its overlap.", takes(http.StatusOK, "id", Broker.RollBack)),
		post("rotations/{id}/value", on(policy.Update).hiding(), "Hands in the credential that a rotation waits for, made by a person. It is in no answer and no log.",
			takes(http.StatusOK, "id", Broker.Supply)),

		get("retirements", seen.hiding(), "Lists retirements, without their tries.", pages(retirementQuery, Broker.Retirements)),
		get("retirements/{id}", seen.hiding(), "Shows a retirement with every try: the whole proof.", shows("id", Broker.Retirement)),
		get("retirements/{id}/events", seen.hiding(), "Streams a retirement whenever it changes, until its proof.", watches(Broker.WatchRetirement)),
		post("retirements/{id}/probe", onRecord, "Tries a revoked credential again now.", takes(http.StatusOK, "id", Broker.Probe)),
		post("retirements/{id}/done", onRecord, "Says that a person has turned a credential off which only a person can. It is tried at once: the proof decides.",
			takes(http.StatusOK, "id", Broker.TurnedOff)),
		get("orphans", seen.hiding(), "Lists credentials that no version stands for and that may be alive.", pages(orphanQuery, Broker.Orphans)),

		get("deliveries", seen.hiding().also(ofATest), "Lists deliveries to consumers, the newest first.", pages(deliveryQuery, Broker.Deliveries)),
		get("deliveries/{id}", seen.hiding().also(ofATest), "Shows a delivery and its acknowledgements.", shows("id", Broker.Delivery)),
		post("deliveries/{id}/ack", on(policy.Update).hiding().also("the role of the consumer, where it has one, and of the secret list or read, instead of update"),
			"Says of a delivery that an instance of its consumer has it, or uses what was delivered.", takes(http.StatusOK, "id", Broker.Acknowledge)),
		post("deliveries/{id}/replay", onRecord, "Delivers again.", takes(http.StatusOK, "id", Broker.Replay)),
		get("consumers", onConsumer(policy.List, policy.Read).hiding(), "Lists the consumers of the configuration, and whether they can be told.", tells(Broker.Consumers)),
		get("consumers/{name}", onConsumer(policy.List, policy.Read), "Shows a consumer, with what its messages are signed with and its last delivery.", shows("name", Broker.Consumer)),
		post("consumers/{name}/test", onConsumer(policy.Update), "Tells a consumer that somebody tries the way to it, by a delivery that is of no secret.", takes(http.StatusAccepted, "name", Broker.TestConsumer)),
		post("consumers/{name}/enable", onConsumer(policy.Update), "Has a consumer told again that wanted no more deliveries: what waits is tried at once.", takes(http.StatusOK, "name", Broker.EnableConsumer)),
		post("consumers/{name}/rotate-signing", onConsumer(policy.Update), "Makes a new key that a consumer's messages are signed with. Only this answer carries one that is secret.",
			takes(http.StatusOK, "name", Broker.RotateSigning)),
		get("consumers/{name}/inbox", known.also("the role of the consumer, which collects its messages: to everybody else it is not there"),
			"Gives a consumer the messages that wait for it, as soon as there are some; or streams them, to who accepts text/event-stream.", collects()),
		get("quarantine", node("quarantine", policy.List), "Lists which consumers and roles are kept out.", tells(Broker.Quarantines)),
		post("quarantine", onQuarantine, "Keeps a consumer or a role out until that is lifted. Idempotent.", does(http.StatusOK, Broker.Quarantine)).as(ratelimit.Containing),
		post("quarantine/lift", onQuarantine, "Lets a consumer or a role in again. A consumer is told of the current versions.", does(http.StatusOK, Broker.LiftQuarantine)),
		post("events/{trigger}", node("events/{trigger}", policy.Create), "Reports an event to a trigger, which rotates a secret or declares an emergency.",
			takes(http.StatusAccepted, "trigger", Broker.Event)).as(ratelimit.Containing),
		post("hooks/{trigger}", anybody.also("what the trigger itself asks for: a signature, or a token of its own"), "Takes what a system outside sends to a trigger, in the form of that system.", receives()).as(ratelimit.Reporting),
		get("events", node("events", policy.Read).also("which secrets an event is about is told of those that may be seen"), "Lists the events that triggers have accepted, the newest first.", pages(inboundEventQuery, Broker.InboundEvents)),
		get("events/received/{id}", node("events", policy.Read), "Shows an event, and what came of it for each secret.", shows("id", Broker.InboundEvent)),
		post("events/received/{id}/apply", node("events", policy.Read).also("rotate, or emergency, on each of the secrets: those on which it is missing stay held"),
			"Acts on what of an event was held, since its trigger had acted on as many secrets as it may.", takes(http.StatusAccepted, "id", Broker.ApplyEvent)).as(ratelimit.Containing),
		get("triggers", node("events", policy.Read), "Lists the triggers of the configuration, and what they did lately.", tells(Broker.Triggers)),
		get("triggers/{trigger}", node("events", policy.Read), "Shows a trigger, and what it did lately.", shows("trigger", Broker.Trigger)),

		get("issuers", node("issuers", policy.Read), "Lists the issuers of the configuration, and whether they can be used.", tells(Broker.Issuers)),
		post("issuers/{name}/check", node("issuers", policy.Update).also("list or read on the secrets: what may not be seen is left out"), "Has an issuer try its permissions, without any effect.", takes(http.StatusOK, "name", Broker.CheckIssuer)),
		get("probes", node("probes", policy.Read), "Lists the probes of the configuration, and whether they can be used.", tells(Broker.Probes)),
		post("identify", seen.hiding().also("to have it tried, rotate, revoke or emergency on the secret; of a token of the broker, whoever has it"),
			"Tells what a text is that was found somewhere, whose it is and who has had it. It changes nothing; the text is in no answer and no log.", does(http.StatusOK, Broker.Identify)).as(ratelimit.Identifying),
		post("probes/{name}/run", on(policy.Rotate), "Tries one version of a secret with a probe, once. The answer has no value, and proves nothing.", takes(http.StatusOK, "name", Broker.RunProbe)),
	}
}

// ofNodes is what is asked of a node itself: who calls, what is recorded, how it stands.
func ofNodes() []Endpoint {
	return []Endpoint{
		get("auth", anybody, "Lists the ways to log in.", methodsToLogIn()),
		post("auth/{method}/login", anybody, "Makes a token of a role for whom a JWT of an identity provider, or the certificate of the connection, proves. Only this answer carries it.", logsIn()),

		get("tokens", node("tokens", policy.List), "Lists tokens, without the tokens themselves.", pages(page, Broker.Tokens)),
		post("tokens", node("tokens", policy.Create).also("of a break-glass token create on sys/break-glass instead"), "Makes a token. Only this answer carries it.", does(http.StatusCreated, Broker.CreateToken)),
		get("tokens/self", known, "Shows the token of the caller, or what the caller's certificate stands for.", tells(Broker.OwnToken)),
		post("tokens/self/renew", known, "Has the caller's token live for its ttl from now on, as far as it can.", tells(Broker.RenewOwnToken)),
		remove("tokens/self", known, "Ends the caller's token at once.", tells(Broker.RevokeOwnToken)).as(ratelimit.Containing),
		remove("tokens/{id}", node("tokens", policy.Delete), "Ends a token at once.", shows("id", Broker.RevokeToken)).as(ratelimit.Containing),

		get("audit", node("audit", policy.Read).also("who is bound to a tenant sees its records only"), "Looks through the audit log of this node, the newest records first.", pages(auditQuery, Broker.AuditRecords)),
		post("audit/hash", node("audit", policy.Read), "Tells what the audit log has in the place of a text.", does(http.StatusOK, Broker.AuditHash)),
		get("audit/checkpoint", node("audit", policy.Read).unbound(), "Gives the newest signed checkpoint of this node's audit log, and the public key.", tells(Broker.AuditCheckpoint)),

		get("alerts", node("alerts", policy.Read), "Lists alerts: those that are open, or all.", pages(alertQuery, Broker.Alerts)),
		get("alerts/{id}", node("alerts", policy.Read), "Shows an alert, and how people were told of it.", shows("id", Broker.Alert)),
		post("alerts/{id}/ack", node("alerts", policy.Update), "Says that somebody looks after an alert: nobody is reminded of it.", takes(http.StatusOK, "id", Broker.AcknowledgeAlert)),
		post("notifiers/{name}/test", node("alerts", policy.Update), "Has a notifier tell now that it works.", shows("name", Broker.TestNotifier)),

		get("sys/freeze", node("freeze", policy.Read), "Tells whether everything is frozen.", tells(Broker.Frozen)),
		post("sys/freeze", node("freeze", policy.Update).unbound(), "Stops all rotations but emergencies.", does(http.StatusOK, Broker.Freeze)),
		post("sys/unfreeze", node("freeze", policy.Update).unbound(), "Lets rotations go on.", does(http.StatusOK, Broker.Unfreeze)),
		post("sys/reload", node("config", policy.Update).unbound(), "Takes the files of the configuration into use, wholly or not at all.", does(http.StatusOK, Broker.Reload)),
		post("config/plan", node("config", policy.Read).unbound(), "Tells what another configuration would do to the secrets, and what the server would refuse of it. Nothing is changed.",
			does(http.StatusOK, Broker.PlanConfig)).upTo(maxPlanned),
		get("sys/config", node("config", policy.Read).unbound(), "Tells how the last reload ended, and what the configuration lacks.", tells(Broker.Configuration)),
		get("storage", node("storage", policy.Read).unbound(), "Tells what is out of step since the state was restored.", tells(Broker.Storage)),
		get("storage/snapshot", node("storage", policy.Read).unbound(), "Gives the whole state as one file, sealed as it is kept.", snapshots()),
		get("offline-kit", node("offline-kit", policy.Read).unbound(), "Gives the file that contains when the broker is down, encrypted to those that the configuration names.", offlineKits()),
		get("seal", node("seal", policy.Read).unbound(), "Shows the seals and the keys that they wrap.", tells(Broker.SealStatus)),
		post("seal/rotate", node("seal", policy.Update).unbound(), "Makes a new key to seal by, and seals everything anew.", does(http.StatusAccepted, Broker.RotateSeal)),
		post("seal/verify", node("seal", policy.Read).unbound(), "Opens every sealed value, page by page, and tells which do not open.", does(http.StatusOK, Broker.VerifySeal)),

		post("keys/check", anybody, "Tells a service whether a key that the broker issued works: 200 or 401. The key comes as bearer, or in the body.", checksKeys()).as(ratelimit.Checking),
		get(wellKnownKeys, anybody, "Gives the public keys that the messages to a consumer are signed with, as a JWK set. There are none of a consumer that there is not.", webhookKeys()),
		get(wellKnownReportKey, anybody, "Gives the public key that the reports of incidents are signed with.", givesReportKey()),
		get("/healthz", anybody, "Tells that the process serves.", healthy()).as(ratelimit.Unlimited),
		get("/readyz", anybody, "Tells whether the node can do all of its work: 200 or 503.", ready()).as(ratelimit.Unlimited),
		get(metricsPath, node("metrics", policy.Read).unbound(), "Gives the metrics of the node in the form of Prometheus.", measures()),
		get("/openapi.json", anybody, "Describes this API.", describes()),
	}
}
