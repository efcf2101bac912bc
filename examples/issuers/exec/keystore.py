"""An issuer and a probe for keybroker, as a program: it mints keys of a small store.

    python3 -I keystore.py STORE

STORE is a directory with the file admin-token, which KEYSTORE_TOKEN must equal for
whatever changes keys. Of a key the store keeps only the SHA-256. The protocol is
described in docs/issuers/exec.md: one JSON object on standard input, one on standard
output.
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import sys

MAX_LIVE = 3  # keys of one secret
SCOPES = {"read", "write"}


class Failure(Exception):
    """What goes back as the answer's error: a class of the protocol, and a text."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


class Store:
    def __init__(self, path):
        self.keys_file = os.path.join(path, "keys.json")
        self.admin_file = os.path.join(path, "admin-token")
        try:
            # One exchange at a time; the lock goes with the process, however it ends.
            self.lock = open(os.path.join(path, "lock"), "a")
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            with open(self.keys_file) as f:
                self.keys = json.load(f)
        except FileNotFoundError:
            if not os.path.isdir(path):
                raise Failure("unavailable", "the store is not there") from None
            self.keys = {}

    def authorise(self):
        with open(self.admin_file) as f:
            expected = f.read().strip()
        if not hmac.compare_digest(expected, os.environ.get("KEYSTORE_TOKEN", "")):
            raise Failure("denied", "KEYSTORE_TOKEN is not the store's admin token")

    def save(self):
        # Whole or not at all: a half-written store would lose every key.
        fresh = self.keys_file + ".new"
        with open(fresh, "w") as f:
            json.dump(self.keys, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(fresh, self.keys_file)


def owner(request):
    return request["secret"]["tenant"] + ":" + request["secret"]["name"]


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


def issue(store, request):
    store.authorise()
    scopes = (request["secret"].get("settings") or {}).get("scopes", ["read"])
    if not set(scopes) <= SCOPES:
        raise Failure("invalid", "scopes are " + ", ".join(sorted(SCOPES)))
    given = request.get("value")  # with prepare = true the broker made the key
    key = given["key"] if given else "ks_" + secrets.token_urlsafe(32)
    mine = {k: v for k, v in store.keys.items() if v["owner"] == owner(request)}
    for id, entry in mine.items():
        if entry["tag"] == request["tag"] and given:  # the same request once more
            if entry["sha256"] != digest(key):
                raise Failure("conflict", "the tag has another key")
            return {"value": {"key": key}, "handle": {"id": id}}
    if len(mine) >= MAX_LIVE:
        raise Failure("conflict", "the secret has %d keys, which is the limit" % MAX_LIVE)
    id = "key_" + secrets.token_hex(8)
    store.keys[id] = {"owner": owner(request), "tag": request["tag"], "sha256": digest(key), "scopes": scopes}
    store.save()
    return {"value": {"key": key}, "handle": {"id": id}}


def revoke(store, request):
    store.authorise()
    entry = store.keys.get(request["handle"].get("id"))
    if entry and entry["owner"] == owner(request):
        del store.keys[request["handle"]["id"]]
        store.save()
    return {}  # a key that is not there is as good as revoked


def find(store, request):
    store.authorise()
    return {
        "found": [
            {"tag": entry["tag"], "handle": {"id": id}}
            for id, entry in store.keys.items()
            if entry["owner"] == owner(request) and entry["tag"] == request["tag"]
        ]
    }


def check(store, request):
    what = "may change keys with KEYSTORE_TOKEN"
    try:
        store.authorise()
    except Failure as failure:
        return {"findings": [{"what": what, "problem": str(failure), "mend": "put the content of admin-token into secret_env"}]}
    return {"findings": [{"what": what}]}


def probe(store, request):
    key = request["value"].get("key")
    if not key:
        return {"verdict": "inconclusive", "detail": "the value has no field key"}
    for id, entry in store.keys.items():
        if entry["sha256"] == digest(key):
            return {"verdict": "accepted", "detail": id + " is in the store"}
    return {"verdict": "rejected", "detail": "no such key is in the store"}


OPERATIONS = {"issue": issue, "revoke": revoke, "find": find, "check": check, "probe": probe}


def main():
    request = json.load(sys.stdin)
    try:
        if request["protocol"] != 1 or request["operation"] not in OPERATIONS:
            raise Failure("unsupported", "this program speaks protocol 1")
        answer = OPERATIONS[request["operation"]](Store(sys.argv[1]), request)
    except Failure as failure:
        answer = {"error": {"class": failure.kind, "message": str(failure)}}
    except OSError as failure:  # also within a change: the store is as it was before it
        answer = {"error": {"class": "unavailable", "message": failure.strerror or "I/O error"}}
    json.dump({"protocol": 1, **answer}, sys.stdout)


main()
