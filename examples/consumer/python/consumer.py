"""A runnable receiver of keybroker's messages, by webhook or from its inbox.

It says which version it got, never the key.
"""

import argparse
import json
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlencode

from broker import Broker, BrokerError
from receiver import Receiver, Refused, read_keys
from signatures import Published, Shared

MAX_BODY = 1 << 20
POLL_TIMEOUT = 60  # seconds; the broker answers after 30 where there is nothing
MAX_PAUSE = 30  # seconds
MAX_REFUSED = 3  # times in a row that the broker does not let us in


def apply(update):
    """Brings a version into use: reopen connections, replace a client. Raise, and the
    broker delivers again."""
    names = ", ".join(sorted(update.fields))
    say(f"using {update.secret} version {update.version} generation {update.generation} ({names})")


def told(name, secret, data):
    """Is told of what needs no application: we hold the newest version already."""
    version = f"{secret} version {data.get('version', 0)}"
    if name == "consumer.test":
        say("tested")
    elif name == "secret.rotating":
        say(f"{version} is to be replaced at {data.get('due_at')}")
    elif name == "secret.emergency":
        say(f"warning: {version} is compromised and about to be replaced")
    elif name == "secret.resurrected":
        say(f"warning: {version} is accepted again, though it was proven dead")
    else:  # retiring, retired, proven_dead
        say(f"{version}: {name.removeprefix('secret.')}")


def handler(receiver):
    class Handler(BaseHTTPRequestHandler):
        timeout = 15  # seconds, of the connection

        def do_POST(self):
            length = self.headers.get("content-length", "")
            if not (length.isascii() and length.isdigit()) or int(length) > MAX_BODY:
                return self.answer(400, b"the body is too large or of unknown length")
            body = self.rfile.read(int(length))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                answer = receiver.take(headers, body)
            except Refused as refused:
                warn(refused)
                return self.answer(refused.status, str(refused).encode())
            except Exception as failure:  # not shown to the sender
                warn(reason(failure))
                return self.answer(503, b"the message could not be handled")
            self.answer(200, json.dumps(answer).encode(), "application/json")

        def answer(self, status, body, content_type="text/plain"):
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


def collect(receiver, broker):
    """Empties the inbox for ever. What cannot be handled is not acknowledged, so that
    the broker hands it out again. Ends when the broker keeps saying that we may not:
    somebody has to see that."""
    query = urlencode({"wait": "30s", "limit": 10, "instance": receiver.instance})
    path = f"/api/v1/consumers/{quote(receiver.consumer, safe='')}/inbox?{query}"
    pause, refused = 1, 0
    while True:
        try:
            items = broker.call("GET", path, timeout=POLL_TIMEOUT)["items"]
        except Exception as failure:
            refused = refused + 1 if isinstance(failure, BrokerError) and failure.denied else 0
            if refused == MAX_REFUSED:
                sys.exit(f"consumer: giving up the inbox: {failure}")
            warn(f"the inbox could not be emptied: {reason(failure)}")
        else:
            refused = 0
            if all([take(receiver, broker, item) for item in items]):  # in their order
                pause = 1
                continue
        time.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE)


def take(receiver, broker, item):
    """Takes a message and acknowledges it; False: it has to be taken again."""
    try:
        headers = {name.lower(): value for name, value in item["headers"].items()}
        answer = receiver.take(headers, item["body"].encode())
        broker.call("POST", f"/api/v1/deliveries/{quote(headers['webhook-id'], safe='')}/ack", answer)
    except Exception as failure:
        warn(reason(failure))
        return False
    return True


def reason(failure):
    """Is what may be said of a failure: others' texts may have anything in them."""
    if isinstance(failure, (Refused, BrokerError)):
        return failure
    return f"a message could not be handled: {type(failure).__name__}"


def say(text):
    print(text, flush=True)


def warn(text):
    print(f"consumer: {text}", file=sys.stderr, flush=True)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    p.add_argument("--addr", default="127.0.0.1:8410", help="address to listen on")
    p.add_argument("--inbox", action="store_true", help="collect from the inbox at the broker instead of listening")
    p.add_argument("--consumer", required=True, help="our name in the broker's configuration")
    p.add_argument("--broker", default="http://127.0.0.1:8400", help="URL of the broker")
    p.add_argument("--token-file", help="token of the consumer's role, for values by reference and the inbox; read for each call")
    p.add_argument("--secret-file", help="signing secret, whsec_…; none: the broker's public keys are fetched")
    p.add_argument("--key-file", help="private keys (JWK, JWK set or PEM) that messages are sealed to")
    p.add_argument("--instance", default=socket.gethostname(), help="name of this one of several instances, the same after a restart")
    p.add_argument("--key-interval", type=float, default=60, help="seconds for which the broker is not asked for its public keys again")
    return p.parse_args()


def main():
    args = arguments()
    try:
        broker = Broker(args.broker, args.token_file)
        if args.secret_file:
            signatures = Shared(Path(args.secret_file).read_text())
        else:
            signatures = Published(broker, args.consumer, args.key_interval)
        keys = read_keys(Path(args.key_file).read_bytes()) if args.key_file else None
        if args.inbox and not args.token_file:
            raise ValueError("an inbox needs a token")
    except (OSError, ValueError, BrokerError) as failure:
        sys.exit(f"consumer: {failure}")
    receiver = Receiver(args.consumer, signatures, broker, keys, args.instance, apply, told)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    if args.inbox:
        say(f"collecting from the inbox of {args.consumer}")
        return collect(receiver, broker)
    host, _, port = args.addr.rpartition(":")
    with ThreadingHTTPServer((host.strip("[]"), int(port)), handler(receiver)) as server:
        say("listening on http://{}:{}".format(*server.server_address))
        server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
