"""Takes keybroker's messages: verify, open, apply in order, acknowledge."""

import base64
import hashlib
import hmac
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from jwcrypto import jwe, jwk
from jwcrypto.common import JWException

from broker import BrokerError

REMEMBERED_IDS = 1024
SUBJECT = ("audience", "tenant", "secret", "version", "generation")
# What a message may be sealed with; nothing weaker is tried.
ALGORITHMS = ["ECDH-ES+A256KW", "RSA-OAEP-256", "A256GCM"]


class Refused(Exception):
    """A message that is not taken. Its text quotes nothing of the message."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Update:
    """A version of a secret that has become current."""

    secret: str  # of another tenant than the default one: "acme:payments/stripe"
    version: int
    generation: int  # only grows, whatever the version number does
    fields: dict = field(repr=False)  # name -> bytes


class Receiver:
    """Keeps the newest value of each secret, in memory: README.md says what that
    means after a restart.

    on_apply(update) brings a version into use; when it raises, the broker delivers
    again. on_event(name, secret, data) is told of everything else.
    """

    def __init__(self, consumer, signatures, broker, keys, instance, on_apply, on_event):
        self.consumer = consumer
        self.signatures = signatures
        self.broker = broker
        self.keys = keys
        self.instance = instance
        self.on_apply = on_apply
        self.on_event = on_event
        self.current = {}  # secret -> Update
        self.answered = OrderedDict()  # webhook-id -> answer
        self.applying = threading.Lock()  # messages are taken in turn

    def take(self, headers, body):
        """Returns how a message is acknowledged. The same id again (a retry whose
        answer was lost, or a replay) gets the same answer, and nothing is done twice.

        headers have lower-case names; body is the raw bytes.
        """
        # Verified are the raw bytes, before anything looks into them.
        if not self.signatures.verify(headers, body):
            raise Refused(401, "the signature is not valid")
        event = self.parse(headers["webhook-id"], body)
        with self.applying:
            answer = self.answered.get(event["id"])
            if answer is None:
                answer = self.handle(event)
                self.answered[event["id"]] = answer
                if len(self.answered) > REMEMBERED_IDS:
                    self.answered.popitem(last=False)
            return answer

    def parse(self, message_id, body):
        try:
            event = json.loads(body)
            data = event["data"]
            if event["id"] != message_id or not isinstance(event["type"], str):
                raise ValueError
            subject(data)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise Refused(400, "the body is no event of its webhook-id") from None
        if data.get("audience") != self.consumer:
            raise Refused(403, "the message is meant for another consumer")
        return event

    def handle(self, event):
        data, name = event["data"], event_name(event["type"])
        generation = data.get("generation", 0)
        answer = {"status": "received", "generation": generation, "instance": self.instance}
        secret = data.get("secret", "")
        if secret and data.get("tenant", "default") != "default":
            secret = f"{data['tenant']}:{secret}"
        if name not in ("secret.rotated", "secret.rolled_back"):
            if name:
                self.on_event(name, secret, data)
            return answer
        # Order is that of generations: not of versions, since a rotation may be
        # rolled back, nor of times.
        update = self.current.get(secret)
        if update and generation < update.generation:
            return answer
        if not update or generation > update.generation:
            fields = self.open(data)
            if fields is None:
                return answer
            update = Update(secret, data["version"], generation, fields)
            self.on_apply(update)
            self.current[secret] = update
        return answer | {"status": "applied", "fingerprint": fingerprint(event["id"], update.fields)}

    def open(self, data):
        """Returns the value that a message hands over; None: it has been replaced
        already, or may be read by who has a token, which we have not."""
        payload = data.get("payload")
        if payload == "plain":
            return fields_of(data)
        if payload == "sealed":
            return self.unseal(data)
        if payload == "reference":
            return self.fetch(data)
        raise Refused(400, "the message has a payload that is not known here")

    def unseal(self, data):
        """Opens a JWE in the general JSON serialization, whose recipients name their
        keys (RFC 7516, section 7.2.1)."""
        try:
            sealed = jwe.JWE(algs=ALGORITHMS)
            sealed.deserialize(json.dumps(data.get("sealed")))
            sealed.decrypt(self.keys or jwk.JWKSet())
            inside = json.loads(sealed.payload)
        except (JWException, ValueError, TypeError):  # what it says is not passed on
            raise Refused(400, "the message cannot be opened with the keys that are here") from None
        # Nobody moves what is sealed into another message.
        if subject(inside) != subject(data):
            raise Refused(400, "what is sealed belongs to another message")
        return fields_of(inside)

    def fetch(self, data):
        if not self.broker.token_file:
            return None
        href = data.get("href", "")
        if not href.startswith("/api/v1/secrets/"):  # the token goes nowhere else
            raise Refused(400, "the message refers to no value of the broker's")
        current = self.broker.call("GET", href)
        if current["version"] == data["version"]:
            return fields_of(current)
        if current["generation"] > data["generation"]:  # we shall be told of that one
            return None
        raise BrokerError("the broker does not give the version yet that it has told of")


def event_name(event_type):
    """Returns "secret.rotated", or "" for an event that we do not know."""
    if event_type.startswith("dev.keybroker.") and event_type.endswith(".v1"):
        return event_type.removeprefix("dev.keybroker.").removesuffix(".v1")
    return ""


def subject(data):
    """What a message is about, and for whom."""
    return [data.get(name) for name in SUBJECT]


def fields_of(data):
    """Returns a value's fields as bytes: those that are no text are in base64."""
    encodings = data.get("encodings", {})
    try:
        if not data["fields"] or set(encodings.values()) - {"base64"} or set(encodings) - set(data["fields"]):
            raise ValueError
        return {
            name: base64.b64decode(text, validate=True) if name in encodings else text.encode()
            for name, text in data["fields"].items()
        }
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Refused(400, "a field is not encoded as the message says") from None


def fingerprint(delivery_id, fields):
    """Proves to the broker that we have the value: HMAC-SHA-256, keyed with the id of
    the delivery, over the fields in the order of their names' bytes, each name and
    value as its length in bytes, a colon and its bytes."""
    mac = hmac.new(delivery_id.encode(), digestmod=hashlib.sha256)
    for name, value in sorted((name.encode(), value) for name, value in fields.items()):
        for part in (name, value):
            mac.update(b"%d:" % len(part) + part)
    return mac.hexdigest()


def read_keys(text):
    """Reads the private keys that messages are sealed to: a JWK, a JWK set, or PEM
    blocks (PKCS #8). The error quotes nothing of them."""
    try:
        found = read_jwks(text) if text.lstrip().startswith(b"{") else read_pem(text)
        if not found or any(key.get("kty") not in ("EC", "RSA") or not key.has_private for key in found):
            raise ValueError
    except (JWException, ValueError, TypeError):
        raise ValueError(
            "the keys are neither private JWKs nor PEM blocks PRIVATE KEY, of P-256, P-384, P-521 or RSA"
        ) from None
    keys = jwk.JWKSet()
    for key in found:
        if not key.get("kid"):  # what the broker calls it, then (RFC 7638)
            key.update(kid=key.thumbprint())
        keys.add(key)
    return keys


def read_jwks(text):
    read = json.loads(text)
    return [jwk.JWK(**key) for key in read.get("keys", [read])]


def read_pem(text):
    end = b"-----END PRIVATE KEY-----"
    return [jwk.JWK.from_pem(block + end) for block in text.split(end)[:-1]]
