"""Services that the server calls, on this machine: moto's S3 and SQS, and an HTTP endpoint that does what a test says."""

import contextlib
import http.server
import threading

import boto3
from lambda_client import REGION

KEYS = {"AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "SECRETsecretSECRETsecret"}
NO_KEYS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
NO_SUCH_KEY = "Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist."


class Moto:
    """Moto's server: `url`, and clients of it."""

    def __init__(self):
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self.environment = KEYS | {"PENSTOCK_S3_ENDPOINT_URL": self.url, "PENSTOCK_SQS_ENDPOINT_URL": self.url}

    def client(self, service):
        keys = {key.lower(): value for key, value in KEYS.items()}
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, **keys)

    def stop(self):
        self._server.stop()


@contextlib.contextmanager
def moto():
    running = Moto()
    yield running
    running.stop()


class Endpoint:
    """An HTTP endpoint. `asked` are requests so far: (method, path, headers by their names in lower case, body); `answer` makes what it sends of one, of its
    method, path and body: (status, headers, body), or None to say nothing until it ends."""

    def __init__(self, answer=None, port=0):
        asked, ended = [], threading.Event()
        self.asked, self._ended = asked, ended
        self.answer = answer or (lambda *_: (200, {}, b""))
        this = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answered(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                said = this.answer(self.command, self.path, body)
                if said is None:
                    ended.wait(60)
                    return
                status, headers, content = said
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = answered

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def endpoint(answer=None, port=0):
    running = Endpoint(answer, port)
    yield running
    running.stop()
