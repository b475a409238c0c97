"""A webhook as bytes on a socket, for when the answer is not waited for at once."""

import socket


def posted(port: int, body: bytes) -> socket.socket:
    """Connect and send all of a webhook, without waiting for an answer."""
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = f"POST /chatwoot/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    return client
