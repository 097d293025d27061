"""Runs inside a virtual machine: takes commands over TCP, one on each connection."""

from __future__ import annotations

import base64
import json
import socketserver
import subprocess

PORT = 7000


class Command(socketserver.StreamRequestHandler):
    """A line of JSON with words and input comes in, one with code and output goes out."""

    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        done = subprocess.run(
            asked["words"],
            input=base64.b64decode(asked["input"]),
            capture_output=True,
            check=False,
        )
        answer = {
            "code": done.returncode,
            "out": done.stdout.decode(errors="replace"),
            "err": done.stderr.decode(errors="replace"),
        }
        self.wfile.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer(("", PORT), Command).serve_forever()
