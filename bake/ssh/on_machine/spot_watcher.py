"""The machine's side of `spot.py`: waits for EC2's notice that it will take this machine away.

Run by the system's Python, 3.6 or later, as long as stdin stays open. Says one line of JSON: what
spot/instance-action of the instance's metadata says, and the seconds left by this machine's clock.
IMDSv2; a look every five seconds is what EC2's User Guide recommends ("Spot Instance interruption
notices"). What is no answer, or makes no sense, is no notice.
"""

import calendar
import http.client
import json
import select
import sys
import time

ADDRESS = "169.254.169.254"
EVERY_S = 5
TIMEOUT_S = 2
TOKEN_S = 21600


def ask(method: str, path: str, headers: "dict[str, str]") -> "tuple[int, str]":
    # Not urllib: it would ask a proxy that a stage has set.
    connection = http.client.HTTPConnection(ADDRESS, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def main() -> None:
    token = ""
    while True:
        try:
            if not token:
                lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
                status, text = ask("PUT", "/latest/api/token", lifetime)
                token = text if status == 200 else ""
            path = "/latest/meta-data/spot/instance-action"
            status, text = ask("GET", path, {"X-aws-ec2-metadata-token": token})
            if status == 401:  # the token has run out
                token = ""
            elif status == 200:
                notice = json.loads(text)
                ends_at = calendar.timegm(time.strptime(notice["time"], "%Y-%m-%dT%H:%M:%SZ"))
                notice["left_s"] = ends_at - time.time()
                print(json.dumps(notice), flush=True)
                return
        except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError):
            pass
        if select.select([sys.stdin], [], [], EVERY_S)[0]:
            return


main()
