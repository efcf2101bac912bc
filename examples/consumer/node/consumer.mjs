// A runnable receiver of keybroker's messages, by webhook or from its inbox.
//
// It says which version it got, never the key.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Broker, BrokerError } from "./broker.mjs";
import { readKeys, Receiver, Refused } from "./receiver.mjs";
import { Published, Shared } from "./signatures.mjs";

const MAX_BODY = 1 << 20;
const POLL_TIMEOUT = 60_000; // milliseconds; the broker answers after 30 s where there is nothing
const MAX_PAUSE = 30_000; // milliseconds
const MAX_REFUSED = 3; // times in a row that the broker does not let us in

const USAGE = `usage: node consumer.mjs --consumer NAME [options]
  --addr ADDRESS          to listen on (127.0.0.1:8410)
  --inbox                 collect from the inbox at the broker instead of listening
  --consumer NAME         our name in the broker's configuration
  --broker URL            of the broker (http://127.0.0.1:8400)
  --token-file FILE       token of the consumer's role, for values by reference and the inbox;
                          read for each call
  --secret-file FILE      signing secret, whsec_…; none: the broker's public keys are fetched
  --key-file FILE         private keys (JWK, JWK set or PEM) that messages are sealed to
  --instance NAME         of this one of several instances, the same after a restart (the host's name)
  --key-interval SECONDS  for which the broker is not asked for its public keys again (60)`;

const say = (text) => console.log(text);
const warn = (text) => console.error(`consumer: ${text}`);

// Brings a version into use: reopen connections, replace a client. Throw, and the
// broker delivers again.
function apply({ secret, version, generation, fields }) {
  say(`using ${secret} version ${version} generation ${generation} (${[...fields.keys()].sort().join(", ")})`);
}

// Is told of what needs no application: we hold the newest version already.
function told(name, secret, data) {
  const version = `${secret} version ${data.version ?? 0}`;
  switch (name) {
    case "consumer.test":
      return say("tested");
    case "secret.rotating":
      return say(`${version} is to be replaced at ${data.due_at}`);
    case "secret.emergency":
      return say(`warning: ${version} is compromised and about to be replaced`);
    case "secret.resurrected":
      return say(`warning: ${version} is accepted again, though it was proven dead`);
  }
  say(`${version}: ${name.replace(/^secret\./, "")}`); // retiring, retired, proven_dead
}

async function bodyOf(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    if ((size += part.length) > MAX_BODY) throw new Refused(400, "the body is too large");
    parts.push(part);
  }
  return Buffer.concat(parts);
}

async function answerTo(receiver, request) {
  if (request.method !== "POST") return [405, "webhooks are delivered by POST"];
  try {
    return [200, JSON.stringify(await receiver.take(request.headers, await bodyOf(request)))];
  } catch (failure) {
    warn(reason(failure));
    // What is no refusal is not shown to the sender.
    return failure instanceof Refused ? [failure.status, failure.message] : [503, "the message could not be handled"];
  }
}

function serve(receiver, addr) {
  const [, host, port] = /^\[?(.*?)\]?:(\d+)$/.exec(addr) ?? [];
  if (!port) throw new Error("--addr is HOST:PORT");
  const server = createServer({ requestTimeout: 15_000 }, async (request, response) => {
    const [status, text] = await answerTo(receiver, request);
    response.writeHead(status, { "content-type": status === 200 ? "application/json" : "text/plain" });
    response.end(text);
  });
  server.on("error", (failure) => {
    warn(failure.message);
    process.exit(1);
  });
  server.listen(Number(port), host, () => say(`listening on http://${server.address().address}:${server.address().port}`));
  process.on("SIGTERM", () => server.close().closeIdleConnections());
}

// Empties the inbox for ever. What cannot be handled is not acknowledged, so that the
// broker hands it out again. Ends when the broker keeps saying that we may not: somebody
// has to see that.
async function collect(receiver, broker) {
  const query = new URLSearchParams({ wait: "30s", limit: 10, instance: receiver.instance });
  const path = `/api/v1/consumers/${encodeURIComponent(receiver.consumer)}/inbox?${query}`;
  for (let pause = 1000, refused = 0; ; ) {
    let all = true;
    try {
      const { items } = await broker.call("GET", path, { timeout: POLL_TIMEOUT });
      refused = 0;
      for (const item of items) all = (await take(receiver, broker, item)) && all; // in their order
    } catch (failure) {
      all = false;
      refused = failure.denied ? refused + 1 : 0;
      if (refused === MAX_REFUSED) throw new Error(`giving up the inbox: ${failure.message}`);
      warn(`the inbox could not be emptied: ${reason(failure)}`);
    }
    if (!all) await sleep(pause);
    pause = all ? 1000 : Math.min(2 * pause, MAX_PAUSE);
  }
}

// Takes a message and acknowledges it; false: it has to be taken again.
async function take(receiver, broker, { headers, body }) {
  try {
    const lower = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
    const answer = await receiver.take(lower, Buffer.from(body));
    await broker.call("POST", `/api/v1/deliveries/${encodeURIComponent(lower["webhook-id"])}/ack`, { body: answer });
    return true;
  } catch (failure) {
    warn(reason(failure));
    return false;
  }
}

// Is what may be said of a failure: others' texts may have anything in them.
function reason(failure) {
  const ours = failure instanceof Refused || failure instanceof BrokerError;
  return ours ? failure.message : `a message could not be handled: ${failure.name}`;
}

function options() {
  const text = (value) => ({ type: "string", default: value });
  const { values } = parseArgs({
    options: {
      addr: text("127.0.0.1:8410"),
      inbox: { type: "boolean", default: false },
      consumer: text(),
      broker: text("http://127.0.0.1:8400"),
      "token-file": text(),
      "secret-file": text(),
      "key-file": text(),
      instance: text(hostname()),
      "key-interval": text("60"),
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help) {
    say(USAGE);
    process.exit(0);
  }
  if (!values.consumer) throw new Error("--consumer is missing");
  if (values.inbox && !values["token-file"]) throw new Error("an inbox needs a token");
  return values;
}

async function main() {
  const given = options();
  const read = (name) => (given[name] ? readFileSync(given[name], "utf8") : "");
  const broker = new Broker(given.broker, given["token-file"]);
  const signatures = given["secret-file"]
    ? new Shared(read("secret-file"))
    : new Published(broker, given.consumer, Number(given["key-interval"]));
  const keys = given["key-file"] ? await readKeys(read("key-file")) : [];
  const { consumer, instance } = given;
  const receiver = new Receiver({ consumer, signatures, broker, keys, instance, onApply: apply, onEvent: told });
  if (!given.inbox) return serve(receiver, given.addr);
  say(`collecting from the inbox of ${consumer}`);
  process.on("SIGTERM", () => process.exit());
  return collect(receiver, broker);
}

main().catch((failure) => {
  warn(failure.message);
  process.exit(1);
});
