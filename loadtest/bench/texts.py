"""The very texts the load generator sends, in its order: it is run once against a socket here that writes them down.

Called by `embeddings`. Recording, rather than making them again in Python, is what keeps both sides' texts the same.
"""

import json
import re
import socket
import threading

from .programs import Failed

# How many different texts the generator goes round; as TEXTS in loadtest/src/payload.rs.
TEXTS = 1024
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}'
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def recorded(programs, tokens, seed):
    """The texts of `--tokens TOKENS --seed SEED`."""
    texts = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(15)
        thread = threading.Thread(target=_record, args=(listener, texts), daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        for _ in range(5):
            # Each run begins with the first text: one that was too short is run again, from the start.
            texts.clear()
            programs.generate("run", "--target", f"embeddings://127.0.0.1:{port}", "--tokens", tokens, "--seed", seed,
                              "--closed", 1, "--connections", 1, "--warmup", 0, "--seconds", 1, timeout_s=30)
            if len(texts) > TEXTS:
                break
    if len(texts) <= TEXTS or texts[TEXTS] != texts[0]:
        raise Failed(f"the generator was expected to go round {TEXTS} texts: {len(texts)} came")
    return texts[:TEXTS]


def _record(listener, texts):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            held = b""
            while part := connection.recv(65536):
                held += part
                while (body := _body(held)) is not None:
                    begins, ends = body
                    texts.append(json.loads(held[begins:ends])["input"][0])
                    held = held[ends:]
                    connection.sendall(ANSWER)


def _body(held):
    """Where the body of the first request begins and ends, or None while it is not whole."""
    head, mark, _ = held.partition(b"\r\n\r\n")
    if not mark:
        return None
    begins = len(head) + 4
    ends = begins + int(LENGTH.search(head)[1])
    return (begins, ends) if len(held) >= ends else None
