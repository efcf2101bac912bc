// Tells whether the broker signed a message (Standard Webhooks 1.0.0).

import { createPublicKey, verify } from "node:crypto";
import { Webhook } from "standardwebhooks";
import { BrokerError } from "./broker.mjs";

const TOLERANCE = 300; // seconds, of a timestamp
const KEYS_KEPT = 300_000; // milliseconds, before the broker is asked whether they are still its
const ASK_PAUSE = 3000; // milliseconds, after the broker could not be asked: shorter than until it tries again
const MIN_SECRET = 24; // bytes
const SIGNATURE_SIZE = 64; // bytes
const MAX_SIGNATURES = 8; // that are looked at: the broker sends one for each of its keys

/** Verifies with secrets that the broker has, too: "whsec_…", one a line. */
export class Shared {
  #webhooks;

  constructor(text) {
    const secrets = text.split(/\s+/).filter(Boolean);
    const usable = (s) => /^whsec_[A-Za-z0-9+/]+=*$/.test(s) && Buffer.from(s.slice(6), "base64").length >= MIN_SECRET;
    if (secrets.length === 0 || !secrets.every(usable)) {
      throw new Error("the signing secret is not whsec_ and at least 24 bytes in base64");
    }
    this.#webhooks = secrets.map((secret) => new Webhook(secret));
  }

  async verify(headers, body) {
    return this.#webhooks.some((webhook) => {
      try {
        webhook.verify(body, headers, { jsonParse: false }); // looks at the timestamp, too
        return true;
      } catch {
        return false;
      }
    });
  }
}

/** Verifies with the keys that the broker publishes (ed25519, "v1a"). */
export class Published {
  #broker;
  #path;
  #interval;
  #newest = { keys: [], asked: -Infinity }; // what the broker has answered
  #asking; // one request for all who need it
  #failed = -Infinity; // when it last could not be asked

  /** interval is in seconds. */
  constructor(broker, consumer, interval) {
    this.#broker = broker;
    this.#path = `/.well-known/keybroker/webhook-keys/${encodeURIComponent(consumer)}`;
    this.#interval = Math.min(interval * 1000, KEYS_KEPT);
  }

  /**
   * Asks the broker for its keys when it has none, when they are old, and, since it may
   * have new ones, when none matches.
   */
  async verify(headers, body) {
    const signed = signedContent(headers, body);
    if (!signed) return false;
    const known = this.#newest;
    if (since(known.asked) < KEYS_KEPT && matches(known, signed)) return true;
    const newest = await this.#refreshed();
    return newest !== known && matches(newest, signed);
  }

  // Returns the broker's keys of at most an interval ago: it is not asked again before,
  // nor at once when it could not be, or anybody could make us ask without end.
  async #refreshed() {
    if (since(this.#newest.asked) < this.#interval) return this.#newest;
    if (since(this.#failed) < ASK_PAUSE) throw new BrokerError("the broker's public keys could not be fetched a moment ago");
    this.#asking ??= this.#ask().finally(() => (this.#asking = undefined));
    return this.#asking;
  }

  async #ask() {
    try {
      const { keys } = await this.#broker.call("GET", this.#path);
      this.#newest = { keys: keys.filter(isEd25519).map(publicKey), asked: performance.now() };
      return this.#newest;
    } catch (failure) {
      this.#failed = performance.now();
      throw failure instanceof BrokerError ? failure : new BrokerError("what the broker publishes are no public keys");
    }
  }
}

const since = (time) => performance.now() - time;
const isEd25519 = ({ kty, crv }) => kty === "OKP" && crv === "Ed25519";
const publicKey = ({ kty, crv, x }) => createPublicKey({ key: { kty, crv, x }, format: "jwk" });

const matches = ({ keys }, { content, signatures }) =>
  keys.some((key) => signatures.some((signature) => verify(null, content, key, signature)));

// Returns what is signed and its v1a signatures; undefined: this cannot be right.
function signedContent(headers, body) {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (!id || id.includes(".") || !/^[0-9]{1,12}$/.test(timestamp)) return undefined;
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE) return undefined;
  // Each is tried with each key, and whoever reaches us may send as many as they like.
  const signatures = (headers["webhook-signature"] ?? "")
    .split(" ")
    .filter((text) => text.startsWith("v1a,"))
    .map((text) => Buffer.from(text.slice(4), "base64"))
    .filter((signature) => signature.length === SIGNATURE_SIZE)
    .slice(0, MAX_SIGNATURES);
  if (signatures.length === 0) return undefined;
  return { content: Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]), signatures };
}
