"""Sends requests to a service at given moments, whatever the service does (an open loop).

    python benchmarks/load.py --address http://127.0.0.1:8080 --plan plan.json --output sent.json

A process of its own, so that its work does not delay the service's. A latency is counted from the
moment at which a request should have been sent: a service that stalls cannot hide it by slowing the
load down.

The plan: {"connections": n, "moments_s": [...], "histories": [[...], ...], "targets": [...],
"body": {...}}; request i asks for histories[i] with the other fields of `body`, and targets[i] is
the item that came next.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp


async def send_all(address: str, plan: dict[str, Any]) -> dict[str, list[Any]]:
    """Statuses, latencies in ms, targets' ranks (0: not in the list), shares and kept blocks."""
    count = len(plan["moments_s"])
    sent: dict[str, list[Any]] = {
        name: [None] * count for name in ("status", "latency_ms", "rank", "keep", "kept")
    }
    bodies = [
        json.dumps({**plan["body"], "histories": [history]}).encode()
        for history in plan["histories"]
    ]
    headers = {"content-type": "application/json"}
    connector = aiohttp.TCPConnector(limit=plan["connections"])
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(address, connector=connector, timeout=timeout) as session:
        start_s = time.perf_counter() + 0.5

        async def send(index: int) -> None:
            due_s = start_s + plan["moments_s"][index]
            try:
                async with session.post(
                    "/v1/recommend", data=bodies[index], headers=headers
                ) as response:
                    content, status = await response.read(), response.status
            except (aiohttp.ClientError, TimeoutError, OSError):
                content, status = b"", 0
            sent["latency_ms"][index] = 1000 * (time.perf_counter() - due_s)
            sent["status"][index] = status
            if status == 200:
                answer = json.loads(content)
                (result,) = answer["results"]
                target = plan["targets"][index]
                items = result["items"]
                sent["rank"][index] = items.index(target) + 1 if target in items else 0
                sent["keep"][index] = answer["keep"]
                sent["kept"][index] = len(result["kept_blocks"] or ())

        tasks = []
        for index, moment_s in enumerate(plan["moments_s"]):
            delay_s = start_s + moment_s - time.perf_counter()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            tasks.append(asyncio.create_task(send(index)))
        await asyncio.gather(*tasks)
    return sent


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--address", required=True)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    sent = asyncio.run(send_all(arguments.address, json.loads(arguments.plan.read_text())))
    arguments.output.write_text(json.dumps(sent))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
