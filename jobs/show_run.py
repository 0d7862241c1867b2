"""Shows runs in a browser: curves, accuracy against time, who gets depth, differences.

    python jobs/show_run.py --run runs/quickstart
    python jobs/show_run.py --run runs/chess --output chess.html

The page is made anew whenever it is loaded, so it follows a training that goes on. It loads nothing
from another host.
"""

import argparse
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from skiprec.observability.run_page import find_runs, run_page


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="folders of runs, or of folders of runs (required)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the page to this file, which needs no server (default: serve it)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8090,
        help="port to listen on; 0 takes a free one (default: 8090)",
    )
    arguments = parser.parse_args(argv)
    try:
        page = run_page(find_runs(arguments.run))
        if arguments.output is not None:
            arguments.output.write_text(page, encoding="utf-8")
            print(f"{arguments.output} holds the page")
            return 0
        server = ThreadingHTTPServer((arguments.host, arguments.port), handler(arguments.run))
    except (ValueError, OSError, OverflowError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    host, port = server.server_address[:2]
    print(f"the page is at http://{host}:{port} (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        server.server_close()
    return 0


def handler(folders: list[Path]) -> type[BaseHTTPRequestHandler]:
    """What answers a request: the page, made of what is on the disk now."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.split("?")[0] != "/":
                self.send_error(404)
                return
            try:
                content, status = run_page(find_runs(folders)).encode(), 200
            except (ValueError, OSError) as error:
                content, status = f"error: {error}".encode(), 500
            self.send_response(status)
            kind = "text/html" if status == 200 else "text/plain"
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing of each request."""

    return Page


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
