// Tells whether the broker signed a message (Standard Webhooks 1.0.0).

import { createPublicKey, verify } from "node:crypto";
import { Webhook } from "standardwebhooks";

const TOLERANCE = 300; // seconds, of a timestamp
const KEYS_KEPT = 300_000; // milliseconds, before the broker is asked whether they are still its
const MIN_SECRET = 24; // bytes

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
  #keys = [];
  #asked = -Infinity;
  #asking; // one request for all who need it

  /** interval is in seconds. */
  constructor(broker, consumer, interval) {
    this.#broker = broker;
    this.#path = `/.well-known/keybroker/webhook-keys/${encodeURIComponent(consumer)}`;
    this.#interval = interval * 1000;
  }

  /**
   * Asks the broker for its keys when it has none, when they are old, and, since it may
   * have new ones, when none matches; but then not again for an interval, or anybody
   * could make us ask without end.
   */
  async verify(headers, body) {
    const signed = signedContent(headers, body);
    if (!signed) return false;
    const age = performance.now() - this.#asked;
    if (age < KEYS_KEPT && this.#matches(signed)) return true;
    if (age < this.#interval) return false;
    this.#asking ??= this.#ask().finally(() => (this.#asking = undefined));
    await this.#asking;
    return this.#matches(signed);
  }

  #matches({ content, signatures }) {
    return this.#keys.some((key) => signatures.some((signature) => verify(null, content, key, signature)));
  }

  async #ask() {
    const { keys } = await this.#broker.call("GET", this.#path);
    this.#keys = keys
      .filter(({ kty, crv }) => kty === "OKP" && crv === "Ed25519")
      .map(({ kty, crv, x }) => createPublicKey({ key: { kty, crv, x }, format: "jwk" }));
    this.#asked = performance.now();
  }
}

// Returns what is signed and its v1a signatures; undefined: this cannot be right.
function signedContent(headers, body) {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (!id || id.includes(".") || !/^[0-9]{1,12}$/.test(timestamp)) return undefined;
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE) return undefined;
  const signatures = (headers["webhook-signature"] ?? "")
    .split(" ")
    .filter((text) => text.startsWith("v1a,"))
    .map((text) => Buffer.from(text.slice(4), "base64"));
  if (signatures.length === 0) return undefined;
  return { content: Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]), signatures };
}
