"""Serves moto, the AWS emulator, for tests.

It is what moto_server runs, and besides:
- it listens on any free port and says which, as one line of JSON on stdout;
- it ends when its standard input does, so that no test leaves one behind;
- it answers one request at a time, since what is atomic in AWS is not in moto, but
  for waiting for messages of SQS;
- it refuses credentials in the words and form of AWS's JSON services, where moto
  speaks as IAM does, and in the form of its query services, where moto has its own;
- it keeps a journal of the requests that changed something and repeats them when it
  starts, so that it may be killed at any moment and still be as durable as AWS.
"""

import argparse
import io
import json
import logging
import os
import re
import sys
import threading
import time

from werkzeug.serving import make_server
from werkzeug.test import EnvironBuilder, run_wsgi_app

from moto.iam import access_control
from moto.moto_api._internal import mock_random
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.sqs.models import SQSBackend
from moto.sts.models import sts_backends

READS = ("Get", "Describe", "List", "BatchGet", "Encrypt", "Decrypt", "GenerateDataKey", "Verify")

REFUSALS = {
    "AccessDenied": "AccessDeniedException",
    "InvalidClientTokenId": "UnrecognizedClientException",
    "SignatureDoesNotMatch": "InvalidSignatureException",
}


class Durable:
    """A WSGI application around moto's with a lock and a journal."""

    def __init__(self, app, path):
        self.app = app
        self.path = path
        self.lock = threading.Lock()
        self.journal = None

    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))  # a slow client waits alone
        request = {
            "method": environ["REQUEST_METHOD"],
            "path": environ["PATH_INFO"],
            "query": environ.get("QUERY_STRING", ""),
            "headers": {k: v for k, v in environ.items() if k.startswith("HTTP_") or k == "CONTENT_TYPE"},
            "body": body.decode("latin-1"),
            "seed": int.from_bytes(os.getrandom(8), "big"),
        }
        until = time.monotonic() + waits(environ, body)
        while True:
            with self.lock:
                status, headers, answer = self.answer(request, environ, body)
            if b'"Messages"' in answer or int(status.split()[0]) >= 400 or time.monotonic() >= until:
                start_response(status, headers)
                return [answer]
            time.sleep(0.05)

    def answer(self, request, environ, body):
        if not self.journal or not changes(request):
            return self.run(environ, body)
        mock_random.seed(request["seed"])
        status, headers, answer = self.run(environ, body)
        if int(status.split()[0]) < 400 and (not receives(environ) or b'"Messages"' in answer):
            self.journal.write(json.dumps(request) + "\n")
            self.journal.flush()  # to the kernel: killing the process loses nothing
        return status, headers, answer

    def run(self, environ, body):
        environ["wsgi.input"] = io.BytesIO(body)
        if environ["PATH_INFO"] == "/end-sessions":
            return end_sessions()
        if environ["PATH_INFO"] == "/refuse-inactive":
            return refuse_inactive()
        answer, status, headers = run_wsgi_app(self.app, environ, buffered=True)
        return refusal(environ, b"".join(answer)) or (status, list(headers), b"".join(answer))

    def replay(self):
        """Repeats the journal, and goes on with it."""
        with open(self.path, "a+", encoding="ascii") as journal:
            journal.seek(0)
            for line in journal:
                if line.endswith("\n"):  # else the process was killed while writing it, and nobody was answered
                    self.repeat(json.loads(line))
        self.journal = open(self.path, "a", encoding="ascii")

    def repeat(self, request):
        body = request["body"].encode("latin-1")
        environ = EnvironBuilder(
            method=request["method"], path=request["path"], query_string=request["query"], data=body
        ).get_environ()
        environ.update(request["headers"])
        environ["PATH_INFO"] = request["path"]
        environ["CONTENT_LENGTH"] = str(len(body))
        mock_random.seed(request["seed"])
        self.run(environ, body)


def refusal(environ, answer):
    """Returns what AWS says where moto has refused credentials in another form, else None.

    A JSON service says it in JSON, a query service (IAM, STS) without moto's list around the error.
    """
    code = re.search(rb"<Code>(\w+)</Code>", answer)
    if not code:
        return None
    if not environ.get("HTTP_X_AMZ_TARGET"):
        if b"<ErrorResponse><Errors><Error>" not in answer:
            return None
        body = answer.replace(b"<Errors><Error>", b"<Error>").replace(b"</Error></Errors>", b"</Error>")
        return "403 Forbidden", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))], body
    text = re.search(rb"<Message>(.*?)</Message>", answer, re.DOTALL)
    body = json.dumps({
        "__type": REFUSALS.get(code[1].decode(), code[1].decode()),
        "Message": text[1].decode() if text else "",
    }).encode()
    return "400 Bad Request", [("Content-Type", "application/x-amz-json-1.1"), ("Content-Length", str(len(body)))], body


def changes(request):
    """Tells whether a request is to be repeated: anything but a read."""
    target = request["headers"].get("HTTP_X_AMZ_TARGET", "")
    operation = target.rpartition(".")[2]
    if not target and request["body"].startswith("Action="):
        operation = request["body"][len("Action=") :].partition("&")[0]
    return not operation.startswith(READS)


def receives(environ):
    return environ.get("HTTP_X_AMZ_TARGET") == "AmazonSQS.ReceiveMessage"


def waits(environ, body):
    """Tells for how many seconds a request waits for messages, which keeps nobody else waiting."""
    return json.loads(body).get("WaitTimeSeconds", 0) if receives(environ) else 0


def receive_at_once():
    """Makes moto itself not wait for messages: it would while nobody else is answered."""
    receive = SQSBackend.receive_message

    def receive_now(self, queue_name, count, wait_seconds_timeout, *more):
        return receive(self, queue_name, count, 0, *more)

    SQSBackend.receive_message = receive_now


def end_sessions():
    """Forgets the credentials of every assumed role: AWS revokes, moto cannot."""
    for account in sts_backends.values():
        for backend in account.values():
            backend.assumed_roles.clear()
    return "200 OK", [("Content-Length", "0")], b""


def refuse_inactive():
    """Makes access keys that are inactive be refused, as in AWS: moto takes them."""
    key = access_control.IAMUserAccessKey
    take = key.__init__

    def take_active(self, account_id, partition, access_key_id, headers):
        take(self, account_id, partition, access_key_id, headers)
        of = self.backend.get_user(self._owner_user_name)
        if of.get_access_key_by_id(access_key_id).status != "Active":
            raise access_control.CreateAccessKeyFailure(reason="InvalidId")

    key.__init__ = take_active
    return "200 OK", [("Content-Length", "0")], b""


def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--journal")
    args = parser.parse_args()

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    # Keys and session tokens come from here, and must be the same when repeated.
    os.urandom = mock_random.randbytes
    receive_at_once()
    app = Durable(DomainDispatcherApplication(create_backend_app), args.journal)
    server = make_server("127.0.0.1", args.port, app, threaded=True, request_handler=MotoRequestHandler)
    if args.journal:
        app.replay()
    threading.Thread(target=end_with_parent, daemon=True).start()
    print(json.dumps({"address": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    server.serve_forever()


main()
