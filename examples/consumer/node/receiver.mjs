// Takes keybroker's messages: verify, open, apply in order, acknowledge.

import { createHmac, createPrivateKey } from "node:crypto";
import { calculateJwkThumbprint, generalDecrypt } from "jose";
import { BrokerError } from "./broker.mjs";

const REMEMBERED_IDS = 1024;
const SUBJECT = ["audience", "tenant", "secret", "version", "generation"];
// What a message may be sealed with; nothing weaker is tried.
const ALGORITHMS = {
  keyManagementAlgorithms: ["ECDH-ES+A256KW", "RSA-OAEP-256"],
  contentEncryptionAlgorithms: ["A256GCM"],
};

/** A message that is not taken. Its text quotes nothing of the message. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/**
 * Keeps the newest value of each secret, in memory: README.md says what that means
 * after a restart.
 *
 * onApply(update) brings a version into use; when it throws, the broker delivers again.
 * onEvent(name, secret, data) is told of everything else.
 */
export class Receiver {
  current = new Map(); // secret -> { secret, version, generation, fields: Map of name -> Buffer }
  #answered = new Map(); // webhook-id -> answer, oldest first
  #turn = Promise.resolve(); // messages are taken in turn

  constructor({ consumer, signatures, broker, keys = [], instance, onApply, onEvent }) {
    Object.assign(this, { consumer, signatures, broker, keys, instance, onApply, onEvent });
  }

  /**
   * Returns how a message is acknowledged. The same id again (a retry whose answer was
   * lost, or a replay) gets the same answer, and nothing is done twice.
   *
   * headers have lower-case names; body is a Buffer of the raw bytes.
   */
  async take(headers, body) {
    // Verified are the raw bytes, before anything looks into them.
    if (!(await this.signatures.verify(headers, body))) throw new Refused(401, "the signature is not valid");
    const event = this.#parse(headers["webhook-id"], body);
    const answer = this.#turn.then(() => this.#once(event));
    this.#turn = answer.catch(() => {});
    return answer;
  }

  async #once(event) {
    const before = this.#answered.get(event.id);
    if (before) return before;
    const answer = await this.#handle(event);
    this.#answered.set(event.id, answer);
    if (this.#answered.size > REMEMBERED_IDS) this.#answered.delete(this.#answered.keys().next().value);
    return answer;
  }

  #parse(id, body) {
    let event;
    try {
      event = JSON.parse(body.toString("utf8"));
    } catch {
      // refused below: what it says would quote the body
    }
    if (typeof event?.type !== "string" || typeof event.data !== "object" || event.data === null || event.id !== id) {
      throw new Refused(400, "the body is no event of its webhook-id");
    }
    if (event.data.audience !== this.consumer) throw new Refused(403, "the message is meant for another consumer");
    return event;
  }

  async #handle({ id, type, data }) {
    const name = /^dev\.keybroker\.(.+)\.v1$/.exec(type)?.[1];
    const generation = data.generation ?? 0;
    const answer = { status: "received", generation, instance: this.instance };
    const tenant = data.tenant ?? "default";
    const secret = data.secret && tenant !== "default" ? `${tenant}:${data.secret}` : (data.secret ?? "");
    if (name !== "secret.rotated" && name !== "secret.rolled_back") {
      if (name) this.onEvent(name, secret, data);
      return answer;
    }
    // Order is that of generations: not of versions, since a rotation may be rolled
    // back, nor of times.
    let update = this.current.get(secret);
    if (update && generation < update.generation) return answer;
    if (!update || generation > update.generation) {
      const fields = await this.#open(data);
      if (!fields) return answer;
      update = { secret, version: data.version, generation, fields };
      await this.onApply(update);
      this.current.set(secret, update);
    }
    return { ...answer, status: "applied", fingerprint: fingerprint(id, update.fields) };
  }

  // Returns the value that a message hands over; undefined: it has been replaced
  // already, or may be read by who has a token, which we have not.
  async #open(data) {
    switch (data.payload) {
      case "plain":
        return fieldsOf(data);
      case "sealed":
        return this.#unseal(data);
      case "reference":
        return this.#fetch(data);
    }
    throw new Refused(400, "the message has a payload that is not known here");
  }

  // Opens a JWE in the general JSON serialization, whose recipients name their keys
  // (RFC 7516, section 7.2.1).
  async #unseal(data) {
    const byKeyID = (_, { header }) => {
      const key = this.keys.find(({ kid }) => kid === header.kid);
      if (!key) throw new Error("this recipient is another one");
      return key.key;
    };
    let inside;
    try {
      const { plaintext } = await generalDecrypt(data.sealed, byKeyID, ALGORITHMS);
      inside = JSON.parse(Buffer.from(plaintext).toString("utf8"));
    } catch {
      throw new Refused(400, "the message cannot be opened with the keys that are here");
    }
    // Nobody moves what is sealed into another message.
    if (!SUBJECT.every((name) => inside[name] === data[name])) throw new Refused(400, "what is sealed belongs to another message");
    return fieldsOf(inside);
  }

  async #fetch(data) {
    if (!this.broker.tokenFile) return undefined;
    if (!data.href?.startsWith("/api/v1/secrets/")) {
      // the token goes nowhere else
      throw new Refused(400, "the message refers to no value of the broker's");
    }
    const current = await this.broker.call("GET", data.href);
    if (current.version === data.version) return fieldsOf(current);
    if (current.generation > data.generation) return undefined; // we shall be told of that one
    throw new BrokerError("the broker does not give the version yet that it has told of");
  }
}

// Returns a value's fields as bytes: those that are no text are in base64.
function fieldsOf({ fields, encodings = {} }) {
  const names = Object.keys(fields ?? {});
  const bad = ([name, encoding]) => encoding !== "base64" || !isBase64(fields[name]);
  if (names.length === 0 || Object.entries(encodings).some(bad)) {
    throw new Refused(400, "a field is not encoded as the message says");
  }
  return new Map(names.map((name) => [name, Buffer.from(fields[name], Object.hasOwn(encodings, name) ? "base64" : "utf8")]));
}

// Buffer.from ignores what is no base64.
const isBase64 = (text) => typeof text === "string" && Buffer.from(text, "base64").toString("base64") === text;

/**
 * Proves to the broker that we have the value: HMAC-SHA-256, keyed with the id of the
 * delivery, over the fields in the order of their names' bytes, each name and value as
 * its length in bytes, a colon and its bytes.
 */
export function fingerprint(deliveryID, fields) {
  const mac = createHmac("sha256", deliveryID);
  const pairs = [...fields].map(([name, value]) => [Buffer.from(name), value]);
  pairs.sort(([a], [b]) => Buffer.compare(a, b));
  for (const part of pairs.flat()) mac.update(`${part.length}:`).update(part);
  return mac.digest("hex");
}

/**
 * Reads the private keys that messages are sealed to: a JWK, a JWK set, or PEM blocks
 * (PKCS #8). The error quotes nothing of them.
 */
export async function readKeys(text) {
  try {
    const jwks = text.trimStart().startsWith("{") ? readJWKs(text) : readPEM(text);
    const keys = await Promise.all(jwks.map(async (jwk) => ({
      // Without a kid, the broker calls it by its thumbprint (RFC 7638).
      kid: jwk.kid ?? (await calculateJwkThumbprint(jwk)),
      key: createPrivateKey({ key: jwk, format: "jwk" }),
    })));
    if (keys.length > 0 && keys.every(({ key }) => ["ec", "rsa"].includes(key.asymmetricKeyType))) return keys;
  } catch {
    // refused below
  }
  throw new Error("the keys are neither private JWKs nor PEM blocks PRIVATE KEY, of P-256, P-384, P-521 or RSA");
}

function readJWKs(text) {
  const read = JSON.parse(text);
  return read.keys ?? [read];
}

function readPEM(text) {
  const blocks = text.match(/-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/g) ?? [];
  return blocks.map((block) => createPrivateKey(block).export({ format: "jwk" }));
}
