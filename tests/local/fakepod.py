"""A pod for tests, run as a script: serves /readyz and /metrics, and misbehaves on demand.

Environment: FAKE_ADMIN_PORT and FAKE_API_PORT (optional). FAKE_MODE: ready (default), never (answers 503), mute
(listens on nothing), crash (exits at once with FAKE_EXIT), stubborn (ignores SIGTERM). FAKE_CHILD=FILE starts a child
in the same group and writes its pid there. FAKE_BUSY=FILE has work in flight while the file is there.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE = os.environ.get("FAKE_MODE", "ready")
METRICS = "vllm:num_requests_running 3.0\nvllm:prefix_cache_queries_total 10.0\nvllm:prefix_cache_hits_total 4.0\n"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = 200, METRICS
        if self.path == "/readyz" and MODE == "never":
            status, body = 503, json.dumps({"state": "warming-up", "reason": "loading weights"})
        if self.path == "/state":
            busy = os.environ.get("FAKE_BUSY")
            body = json.dumps({"inFlight": int(bool(busy) and Path(str(busy)).exists()), "heldBlocks": False})
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        return


def main() -> None:
    print(f"fake pod in mode {MODE}", flush=True)
    if child := os.environ.get("FAKE_CHILD"):
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        draft = Path(f"{child}.draft")
        draft.write_text(str(sleeper.pid))
        draft.replace(child)
    if MODE == "crash":
        print("error: no more of this", flush=True)
        sys.exit(int(os.environ.get("FAKE_EXIT", "1")))
    ending = threading.Event()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if MODE == "stubborn" else lambda *_: ending.set())
    if MODE != "mute":
        for name in ("FAKE_ADMIN_PORT", "FAKE_API_PORT"):
            if name in os.environ:
                server = ThreadingHTTPServer(("127.0.0.1", int(os.environ[name])), Handler)
                threading.Thread(target=server.serve_forever, daemon=True).start()
    ending.wait()


if __name__ == "__main__":
    main()
