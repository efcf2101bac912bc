"""The HTTP API of the broker."""

import ipaddress
import json
import urllib.request
from urllib.parse import urljoin, urlsplit

MAX_ANSWER = 16 << 20
TIMEOUT = 10  # seconds


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """The token goes nowhere else."""

    def redirect_request(self, *_):
        return None


class Broker:
    def __init__(self, url, token=""):
        parts = urlsplit(url)
        if not parts.hostname or parts.username:
            raise ValueError("the broker's URL is not https://host[:port]")
        if parts.scheme != "https" and not (parts.scheme == "http" and loopback(parts.hostname)):
            raise ValueError(
                "the broker's URL is not https, as it must be except on this machine: "
                "its public keys and our token go over it"
            )
        self.url = url
        self.token = token
        self.opener = urllib.request.build_opener(NoRedirects)

    def call(self, method, path, body=None, timeout=TIMEOUT):
        """Makes one request and returns the JSON of the answer. An error, which quotes
        no body, is an OSError or a ValueError."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        sent = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            sent = json.dumps(body).encode()
        request = urllib.request.Request(urljoin(self.url, path), sent, headers, method=method)
        with self.opener.open(request, timeout=timeout) as answer:
            text = answer.read(MAX_ANSWER)
        return json.loads(text) if text else None


def loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
