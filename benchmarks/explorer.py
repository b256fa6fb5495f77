"""CPU time of the explorer per picture while a slider is dragged, with its web server.

Starts ``sg3flow explore`` on a free port, asks for pictures one after another as the page does, and
prints the CPU time that the process took per picture, and the time per picture as a person sees it.

    python benchmarks/explorer.py --network starter --pictures 200
"""

import argparse
import http.client
import json
import re
import subprocess
import sys
import time

import psutil


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="starter")
    parser.add_argument("--pictures", type=int, default=200)
    options = parser.parse_args()
    command = [sys.executable, "-m", "sg3flow", "explore", options.network, "--port", "0"]
    process = subprocess.Popen([*command, "--no-browser"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://([0-9.:]+)/", process.stdout.readline())
        assert found is not None, "the explorer did not start"
        measure(found[1], psutil.Process(process.pid), options.pictures)
    finally:
        process.terminate()
        process.wait()


def measure(address: str, process: psutil.Process, count: int) -> None:
    """Ask for pictures and print what they took."""
    link = http.client.HTTPConnection(address)
    facts = ask(link, "GET", "/api/model", None)
    picture = {"seed": 1} | ({"class": 0} if json.loads(facts)["num_classes"] else {})
    for degrees in range(10):
        drag(link, picture, degrees)
    before, start = process.cpu_times(), time.perf_counter()
    for degrees in range(count):
        drag(link, picture, degrees % 360)
    elapsed, after = time.perf_counter() - start, process.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    print(f"CPU time per picture: {1000 * cpu / count:.1f} ms")
    print(f"time per picture: {1000 * elapsed / count:.1f} ms")


def drag(link: http.client.HTTPConnection, picture: dict[str, int], degrees: int) -> None:
    """One picture, as while the slider of the angle is dragged."""
    content = {"picture": picture | {"rotate": degrees}, "slot": "large"}
    ask(link, "POST", "/api/picture", content)


def ask(link: http.client.HTTPConnection, method: str, path: str, content: object) -> bytes:
    """The answer to a call."""
    headers = {"Content-Type": "application/json"}
    link.request(method, path, None if content is None else json.dumps(content), headers)
    answer = link.getresponse()
    body = answer.read()
    assert answer.status == 200, body[:300]
    return body


if __name__ == "__main__":
    main()
