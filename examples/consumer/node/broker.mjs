// The HTTP API of the broker.

import { readFileSync } from "node:fs";

const TIMEOUT = 10_000; // milliseconds
const MAX_ANSWER = 16 << 20;
const DENIED = [401, 403, 404]; // to who may not, nothing is there, either

/** Why the broker did not do something. The text quotes no body and no token. */
export class BrokerError extends Error {
  constructor(text, denied = false) {
    super(text);
    this.denied = denied; // it does not let us in, or would not
  }
}

export class Broker {
  constructor(url, tokenFile) {
    const parts = URL.canParse(url) ? new URL(url) : undefined;
    if (!parts?.hostname || parts.username) throw new Error("the broker's URL is not https://host[:port]");
    const loopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(parts.hostname);
    if (parts.protocol !== "https:" && !(parts.protocol === "http:" && loopback)) {
      throw new Error(
        "the broker's URL is not https, as it must be except on this machine: its public keys and our token go over it",
      );
    }
    this.url = url;
    this.tokenFile = tokenFile;
    if (tokenFile) this.#token();
  }

  // Is read for each call: tokens end, and are replaced.
  #token() {
    try {
      return readFileSync(this.tokenFile, "utf8").trim();
    } catch (failure) {
      throw new BrokerError(`reading the broker token: ${failure.code}`, true);
    }
  }

  /** Makes one request and returns the JSON of the answer; otherwise it throws a BrokerError. */
  async call(method, path, { body, timeout = TIMEOUT } = {}) {
    const headers = {};
    if (this.tokenFile && path.startsWith("/api/")) headers.authorization = `Bearer ${this.#token()}`; // what is published takes none
    if (body !== undefined) headers["content-type"] = "application/json";
    const what = `${method} ${path.split("?", 1)[0]}`;
    let text;
    try {
      const answer = await fetch(new URL(path, this.url), {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        redirect: "error", // the token goes nowhere else
        signal: AbortSignal.timeout(timeout),
      });
      if (!answer.ok) {
        await answer.body?.cancel();
        throw new BrokerError(`the broker answers ${answer.status} to ${what}`, DENIED.includes(answer.status));
      }
      text = await textOf(answer);
    } catch (failure) {
      if (failure instanceof BrokerError) throw failure;
      throw new BrokerError(`asking the broker: ${what}: ${failure.cause?.code ?? failure.name}`);
    }
    try {
      return text ? JSON.parse(text) : undefined;
    } catch {
      throw new BrokerError(`the broker's answer to ${what} is not what was asked for`);
    }
  }
}

async function textOf(answer) {
  const parts = [];
  let size = 0;
  for await (const part of answer.body ?? []) {
    if ((size += part.length) > MAX_ANSWER) throw new BrokerError("the broker's answer is too long");
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}
