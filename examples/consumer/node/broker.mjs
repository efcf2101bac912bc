// The HTTP API of the broker.

const TIMEOUT = 10_000; // milliseconds

export class Broker {
  constructor(url, token = "") {
    const parts = URL.canParse(url) ? new URL(url) : undefined;
    if (!parts?.hostname || parts.username) throw new Error("the broker's URL is not https://host[:port]");
    const loopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(parts.hostname);
    if (parts.protocol !== "https:" && !(parts.protocol === "http:" && loopback)) {
      throw new Error(
        "the broker's URL is not https, as it must be except on this machine: its public keys and our token go over it",
      );
    }
    this.url = url;
    this.token = token;
  }

  /** Makes one request and returns the JSON of the answer. Its errors quote no body. */
  async call(method, path, { body, timeout = TIMEOUT, signal } = {}) {
    const headers = {};
    if (this.token) headers.authorization = `Bearer ${this.token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const limit = AbortSignal.timeout(timeout);
    const answer = await fetch(new URL(path, this.url), {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      redirect: "error", // the token goes nowhere else
      signal: signal ? AbortSignal.any([limit, signal]) : limit,
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`the broker answers ${answer.status} to ${method} ${new URL(path, this.url).pathname}`);
    try {
      return text ? JSON.parse(text) : undefined;
    } catch {
      throw new Error("the broker's answer is not what was asked for");
    }
  }
}
