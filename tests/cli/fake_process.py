"""A stand-in for a Baton process in tests of the shell: the same flags and events, no model.

It says it listens, answers `GET /ready` with 200 and ends on SIGTERM. `--set fault=NAME` makes the process of
that name die at start; `--leave-grandchild FILE` starts a sleeping process and writes its id.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"ready": True, "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def say(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", default="proxy")
    parser.add_argument("--set", default="")
    parser.add_argument("--leave-grandchild", type=Path)
    arguments, _ = parser.parse_known_args()
    sys.stderr.write(f"{arguments.name} says hello\n")
    if arguments.set == f"fault={arguments.name}":
        say("fatal", message="this one was told to fail")
        sys.exit(3)
    if arguments.leave_grandchild:
        sleeper = subprocess.Popen(["sleep", "600"])
        arguments.leave_grandchild.write_text(str(sleeper.pid))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = HTTPServer((arguments.host, arguments.port), Ready)
    say("loading", stage="weights", done=1, total=1)
    say("listening", host=arguments.host, port=server.server_port)
    say("ready")
    server.serve_forever()


if __name__ == "__main__":
    main()
