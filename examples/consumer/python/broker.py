"""The HTTP API of the broker."""

import ipaddress
import json
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit

MAX_ANSWER = 16 << 20
TIMEOUT = 10  # seconds
DENIED = (401, 403, 404)  # to who may not, nothing is there, either


class BrokerError(Exception):
    """Why the broker did not do something. The text quotes no body and no token."""

    def __init__(self, text, denied=False):
        super().__init__(text)
        self.denied = denied  # it does not let us in, or would not


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """The token goes nowhere else."""

    def redirect_request(self, *_):
        return None


class Broker:
    def __init__(self, url, token_file=None):
        parts = urlsplit(url)
        if not parts.hostname or parts.username:
            raise ValueError("the broker's URL is not https://host[:port]")
        if parts.scheme != "https" and not (parts.scheme == "http" and loopback(parts.hostname)):
            raise ValueError(
                "the broker's URL is not https, as it must be except on this machine: "
                "its public keys and our token go over it"
            )
        self.url = url
        self.token_file = token_file
        handlers = [NoRedirects]
        if loopback(parts.hostname):  # what is on this machine is no proxy's to see, which it could
            handlers.append(urllib.request.ProxyHandler({}))
        self.opener = urllib.request.build_opener(*handlers)
        if token_file:
            self.read_token()

    def read_token(self):
        """Is done for each call: tokens end, and are replaced."""
        try:
            return Path(self.token_file).read_text().strip()
        except OSError as failure:
            raise BrokerError(f"reading the broker token: {failure}", denied=True) from None

    def call(self, method, path, body=None, timeout=TIMEOUT):
        """Makes one request and returns the JSON of the answer; otherwise it raises a
        BrokerError."""
        headers, sent = {}, None
        if self.token_file and path.startswith("/api/"):  # what is published takes none
            headers["Authorization"] = f"Bearer {self.read_token()}"
        if body is not None:
            headers["Content-Type"] = "application/json"
            sent = json.dumps(body).encode()
        what = f"{method} {path.partition('?')[0]}"
        try:
            request = urllib.request.Request(urljoin(self.url, path), sent, headers, method=method)
            with self.opener.open(request, timeout=timeout) as answer:
                text = answer.read(MAX_ANSWER + 1)
        except HTTPError as failure:
            failure.close()
            raise BrokerError(f"the broker answers {failure.code} to {what}", failure.code in DENIED) from None
        except (OSError, HTTPException, ValueError) as failure:
            why = getattr(failure, "reason", failure)
            raise BrokerError(f"asking the broker: {what}: {type(why).__name__}") from None
        try:
            if len(text) > MAX_ANSWER:
                raise ValueError
            return json.loads(text) if text else None
        except ValueError:
            raise BrokerError(f"the broker's answer to {what} is not what was asked for") from None


def loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
