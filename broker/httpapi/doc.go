// Package httpapi serves the native API: it only translates between HTTP and the
// Broker, which is who authorises, audits and acts.
//
// # Routes
//
// All but the last four are below /api/v1. All need a token (Authorization: Bearer)
// or a client certificate, except auth, auth/{method}/login, keys/check, hooks/{trigger} and the last
// three.
//
//	GET    secrets                      ?prefix= &limit= &after=
//	GET    secrets/{name}
//	GET    secrets/{name}/value         ?version=      ETag, If-None-Match
//	POST   secrets/{name}/rotate        {reason}                    202 rotation
//	POST   secrets/{name}/revoke        {version, reason}           202 retirement
//	POST   secrets/{name}/emergency     {reason, contain}           202 rotation
//	POST   secrets/{name}/pause         {reason}                    200 secret
//	POST   secrets/{name}/resume                                    200 secret
//	GET    secrets/{name}/plan                                      what would happen, when, and why not
//	GET    secrets/{name}/consumers                                 who was told, got and uses what, and who an old version
//	POST   secrets/{name}/repair        {reason, dry_run, overwrite} 200 findings
//	POST   secrets/{name}/import        {handle, version_handles, version, reason, dry_run} 200 what was taken over
//	POST   secrets/{name}/drift/check   {reason}                    202 list of placements
//	POST   secrets/{name}/drift/restore {backend, reason, dry_run}  200 intervention
//	POST   secrets/{name}/drift/adopt   {backend, reason, dry_run}  200 intervention
//	GET    drift                        ?secret= &backend= &all= &limit= &after=
//	GET    rotations                    ?secret= &state= &live= &limit= &after=
//	GET    rotations/{id}
//	GET    rotations/{id}/events        server-sent events
//	POST   rotations/{id}/cancel        {reason, dry_run}           200 intervention
//	POST   rotations/{id}/retry         {reason, dry_run}           200 intervention
//	POST   rotations/{id}/approve       {reason, dry_run}           200 intervention
//	POST   rotations/{id}/rollback      {reason, dry_run}           200 intervention
//	GET    retirements                  ?secret= &state= &limit= &after=
//	GET    retirements/{id}
//	GET    retirements/{id}/events      server-sent events
//	POST   retirements/{id}/probe       {reason, dry_run}           200 intervention
//	GET    orphans                      ?secret= &limit= &after=
//	GET    deliveries                   ?secret= &consumer= &state= &event= &limit= &after=
//	GET    deliveries/{id}
//	POST   deliveries/{id}/ack          {status, generation, instance, fingerprint} 200 delivery
//	POST   deliveries/{id}/replay       {reason, dry_run}           200 intervention
//	GET    consumers                                                consumers, and whether they can be told
//	GET    consumers/{name}                                         with signing keys and the last delivery
//	POST   consumers/{name}/test        {reason}                    202 delivery, of no secret
//	POST   consumers/{name}/enable      {reason}                    200 consumer
//	POST   consumers/{name}/rotate-signing {overlap, reason}        200 keys, and of hmac the secret, once
//	GET    quarantine                                               who is kept out
//	POST   quarantine                   {kind, name, reason, incident_id, force, dry_run, expect} 200 quarantine
//	POST   quarantine/lift              {kind, name, reason, dry_run, expect} 200 quarantine
//	GET    consumers/{name}/inbox       ?wait= &limit=              200 messages that wait, or server-sent events
//	GET    incidents                    ?state= &secret= &limit= &after=
//	POST   incidents                    {id, reason, selector, …}   202 incident
//	GET    incidents/{id}
//	GET    incidents/{id}/events        server-sent events
//	POST   offline-returns              {id, installation, reason, versions, …} 202 incident
//	POST   incidents/{id}/approve       {reason}                    200 incident
//	POST   incidents/{id}/reject        {reason}                    200 incident
//	POST   incidents/{id}/close         {reason, hold}              200 incident
//	POST   incidents/{id}/hold          {reason, hold}              200 incident
//	POST   incidents/{id}/notes         {text, check, done}         200 incident
//	POST   identify                     {value, probe}              200 what it is
//	POST   events/{trigger}             {id, secret, reason}        202 rotation
//	POST   hooks/{trigger}              what the trigger's protocol says; no token
//	GET    events                       ?trigger= &outcome= &limit= &after=
//	GET    events/received/{id}
//	POST   events/received/{id}/apply   {reason}                    202 event
//	GET    triggers                                                 triggers, and what they did lately
//	GET    triggers/{trigger}
//	GET    audit                        ?actor= &action= &secret= &path= &outcome= &request= &hash= &tenant= &since= &until= &limit= &after=
//	POST   audit/hash                   {text}                      200 what the log has in its place
//	GET    audit/checkpoint                                         the newest signed one, and the public key
//	GET    auth                                                     the ways to log in
//	POST   auth/{method}/login          {role, jwt}                 201 token
//	GET    tokens                       ?limit= &after=
//	POST   tokens                       {name, role or policies, tenant, ttl, max_ttl, max_idle, uses, cidrs, break_glass} 201 token
//	GET    tokens/self
//	POST   tokens/self/renew                                        200 token
//	DELETE tokens/self                                              200 token
//	DELETE tokens/{id}                                              200 token
//	GET    sys/freeze
//	POST   sys/freeze                   {reason, dry_run}           200 intervention
//	POST   sys/unfreeze                 {reason, dry_run}           200 intervention
//	POST   sys/reload                   {dry_run}                   200 what changed
//	GET    sys/config                                               200 what the node works by
//	GET    storage                                                  200 what is out of step since a restore
//	GET    offline-kit                                              200 an encrypted file
//	GET    storage/snapshot                                         200 the state, as one file
//	GET    seal                                                     200 the seals and their keys
//	POST   seal/rotate                  {reason, force}             202 the new key
//	POST   seal/verify                  {after}                     200 what opens, and what does not
//	POST   keys/check                   {key}, or the key as bearer 200 or 401
//	GET    /metrics
//	GET    /healthz  /readyz  /openapi.json
//
// The function table has them as data, with what each needs and takes: it is what the
// routes and /openapi.json are made of.
//
// # Names in paths
//
// A secret's name contains slashes. As one percent-encoded segment it is never
// ambiguous: secrets/payments%2Fstripe/value. Raw slashes are accepted too:
// secrets/payments/stripe/value. Then the end is the sub-resource if it is one of
// the words above (value, rotate, drift/check, …) and not all there is; a secret
// whose own name ends in such a word is reached in the encoded form.
//
// # Values
//
// Fields are text. One that is no UTF-8 text is base64, and named with that in
// encodings, which stands beside fields.
//
// # Interventions
//
// They are answered with {dry_run, will, …}: will are sentences for people that say
// what follows, … is the rotation, retirement or delivery as it stands then. With
// dry_run they are authorised, audited and answered in the same way, and change
// nothing.
//
// # Entity tags
//
// The current value (no ?version=) has a tag, which changes with everything that
// the answer says and tells nothing else: "g9" is generation 9; "g9-p6" has version
// 6 with it as the previous one; a checksum of the times follows, "g9-p6-1f3a90bc",
// where there are any. If-None-Match thus gives 304 until there is a new key, the
// previous one has left, or a time has moved. A version asked for by its number has
// no tag.
//
// # Errors
//
// Every error is a problem document (RFC 9457) of type about:blank, whose title
// is that of its status and whose instance is urn:uuid:<request id>; the same id
// is in X-Request-Id and in the log. What the broker did not expect is told to
// the log alone. A refused reload has all of its reasons in the member problems, a
// list of {what, remedy, file, line}. A parameter or JSON field that the API does not know is refused,
// so that a misspelt ?version= never answers with another version; so is one that is
// there twice, or in other letters.
//
// # Limits
//
// Requests are counted for each address before it is known who calls, for each
// identity and tenant after that; see package ratelimit. Answers say what is left in
// the headers RateLimit-Policy and RateLimit; a 429 has a Retry-After. What contains
// (revoke, emergency, events, ending a token) has buckets of its own and, for whoever is
// known, none of the address; checks of keys have one of their own, /healthz and /readyz have none.
//
// Where a request comes from is the peer of the connection, or what a trusted proxy
// says in X-Forwarded-For. There are no CORS headers: pages of other origins cannot
// call the API.
//
// # Events
//
// rotations/{id}/events begins with the present state of the rotation and of the
// retirements it waits for, sends each again whenever it changed (events
// "rotation" and "retirement", each with the JSON of its object), ends with "end"
// once the rotation has ended, and sends a comment every 15 s. A stream that ends
// without "end" was interrupted: open it again. retirements/{id}/events is the same
// for one retirement, to its proof, or until nothing changes by itself any more.
//
// # Inboxes
//
// consumers/{name}/inbox gives a consumer that cannot be called the messages that a
// webhook would bring: the same headers, body and signature. Only the consumer's role
// sees it. It waits until there is something (wait, 30 s if not given), then answers
// {items: [{delivery, headers, body}]}; to who accepts text/event-stream it sends each as
// an event "message" with the delivery's id, and does not end by itself. What is not
// acknowledged (deliveries/{id}/ack) within 30 s is handed out again, one message of a
// secret at a time.
package httpapi
