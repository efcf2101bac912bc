"""Tells whether the broker signed a message (Standard Webhooks 1.0.0)."""

import base64
import re
import threading
import time
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook

TOLERANCE = 300  # seconds, of a timestamp
KEYS_KEPT = 300  # seconds, before the broker is asked whether they are still its
MIN_SECRET = 24  # bytes


class Shared:
    """Verifies with secrets that the broker has, too: "whsec_…", one a line."""

    def __init__(self, text):
        self.webhooks = []
        for line in text.split():
            raw = base64.b64decode(line.removeprefix("whsec_"), validate=True)
            if not line.startswith("whsec_") or len(raw) < MIN_SECRET:
                raise ValueError("the signing secret is not whsec_ and at least 24 bytes in base64")
            self.webhooks.append(Webhook(raw))
        if not self.webhooks:
            raise ValueError("there is no signing secret, whsec_…")

    def verify(self, headers, body):
        return any(self.matches(webhook, headers, body) for webhook in self.webhooks)

    @staticmethod
    def matches(webhook, headers, body):
        try:
            webhook.verify(body, headers, json_parse=False)  # looks at the timestamp, too
            return True
        except Exception:  # the library raises many kinds for what is malformed
            return False


class Published:
    """Verifies with the keys that the broker publishes (ed25519, "v1a")."""

    def __init__(self, broker, consumer, interval):
        self.broker = broker
        self.path = "/.well-known/keybroker/webhook-keys/" + quote(consumer, safe="")
        self.interval = interval
        self.keys = []
        self.asked = float("-inf")
        self.lock = threading.Lock()

    def verify(self, headers, body):
        """Asks the broker for its keys when it has none, when they are old, and, since
        it may have new ones, when none matches; but then not again for an interval, or
        anybody could make us ask without end."""
        signed = signed_content(headers, body)
        if signed is None:
            return False
        with self.lock:
            age = time.monotonic() - self.asked
            if age < KEYS_KEPT and self.matches(*signed):
                return True
            if age < self.interval:
                return False
            self.ask()
            return self.matches(*signed)

    def matches(self, content, signatures):
        for key in self.keys:
            for signature in signatures:
                try:
                    key.verify(signature, content)
                    return True
                except InvalidSignature:
                    pass
        return False

    def ask(self):
        keys = self.broker.call("GET", self.path)["keys"]
        self.asked = time.monotonic()
        self.keys = [
            Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=="))
            for key in keys
            if key.get("kty") == "OKP" and key.get("crv") == "Ed25519"
        ]


def signed_content(headers, body):
    """Returns what is signed and its v1a signatures; None: this cannot be right."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or "." in message_id or not re.fullmatch("[0-9]{1,12}", timestamp):
        return None
    if abs(time.time() - int(timestamp)) > TOLERANCE:
        return None
    signatures = []
    for text in headers.get("webhook-signature", "").split():
        version, _, encoded = text.partition(",")
        if version == "v1a":
            try:
                signatures.append(base64.b64decode(encoded, validate=True))
            except ValueError:
                return None
    if not signatures:
        return None
    return f"{message_id}.{timestamp}.".encode() + body, signatures
