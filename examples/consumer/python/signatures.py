"""Tells whether the broker signed a message (Standard Webhooks 1.0.0)."""

import base64
import re
import threading
import time
from dataclasses import dataclass
from itertools import islice
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook

from broker import BrokerError

TOLERANCE = 300  # seconds, of a timestamp
KEYS_KEPT = 300  # seconds, before the broker is asked whether they are still its
ASK_PAUSE = 3  # seconds, after the broker could not be asked: shorter than until it tries again
MIN_SECRET = 24  # bytes
SIGNATURE_SIZE = 64  # bytes
MAX_SIGNATURES = 8  # that are looked at: the broker sends one for each of its keys


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


@dataclass(frozen=True)
class Keys:
    """What the broker has answered."""

    keys: tuple = ()
    asked: float = float("-inf")

    def age(self):
        return time.monotonic() - self.asked

    def match(self, content, signatures):
        return any(verifies(key, content, signature) for key in self.keys for signature in signatures)


class Published:
    """Verifies with the keys that the broker publishes (ed25519, "v1a")."""

    def __init__(self, broker, consumer, interval):
        self.broker = broker
        self.path = "/.well-known/keybroker/webhook-keys/" + quote(consumer, safe="")
        self.interval = min(interval, KEYS_KEPT)
        self.newest = Keys()
        self.asking = threading.Lock()  # held while the broker is asked: who knows a key of the message does not wait
        self.failed = float("-inf")  # when it last could not be asked; guarded by asking

    def verify(self, headers, body):
        """Asks the broker for its keys when it has none, when they are old, and, since
        it may have new ones, when none matches."""
        signed = signed_content(headers, body)
        if signed is None:
            return False
        known = self.newest
        if known.age() < KEYS_KEPT and known.match(*signed):
            return True
        newest = self.refreshed()
        return newest is not known and newest.match(*signed)

    def refreshed(self):
        """Returns the broker's keys of at most an interval ago: it is not asked again
        before, nor at once when it could not be, or anybody could make us ask without
        end."""
        with self.asking:
            if self.newest.age() < self.interval:
                return self.newest
            if time.monotonic() - self.failed < ASK_PAUSE:
                raise BrokerError("the broker's public keys could not be fetched a moment ago")
            try:
                self.newest = self.ask()
            except Exception:
                self.failed = time.monotonic()
                raise
            return self.newest

    def ask(self):
        try:
            keys = tuple(
                Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=="))
                for key in self.broker.call("GET", self.path)["keys"]
                if key.get("kty") == "OKP" and key.get("crv") == "Ed25519"
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BrokerError("what the broker publishes are no public keys") from None
        return Keys(keys, time.monotonic())


def verifies(key, content, signature):
    try:
        key.verify(signature, content)
        return True
    except InvalidSignature:
        return False


def signed_content(headers, body):
    """Returns what is signed and its v1a signatures; None: this cannot be right."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or "." in message_id or not re.fullmatch("[0-9]{1,12}", timestamp):
        return None
    if abs(time.time() - int(timestamp)) > TOLERANCE:
        return None
    signatures = list(islice(signatures_of(headers), MAX_SIGNATURES))
    if not signatures:
        return None
    return f"{message_id}.{timestamp}.".encode() + body, signatures


def signatures_of(headers):
    """Yields what may be a signature. Each is tried with each key, and whoever reaches
    us may send as many as they like: take few."""
    for text in headers.get("webhook-signature", "").split():
        version, _, encoded = text.partition(",")
        try:
            signature = base64.b64decode(encoded, validate=True)
        except ValueError:
            continue
        if version == "v1a" and len(signature) == SIGNATURE_SIZE:
            yield signature
