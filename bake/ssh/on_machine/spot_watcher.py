"""Wait on the machine for EC2's notice that this spot machine will be interrupted.

`bake/ssh/spot.py` starts it with the system's Python, 3.6 or later; it runs as long as stdin stays
open. It prints one line of JSON: the document spot/instance-action of the instance's metadata, and
the seconds left by this machine's clock. It uses IMDSv2, every five seconds as EC2's User Guide
recommends ("Spot Instance interruption notices"). Missing and invalid responses are ignored.
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


def request(method: str, path: str, headers: "dict[str, str]") -> "tuple[int, str]":
    # Not urllib: it would use a proxy that a stage has set.
    connection = http.client.HTTPConnection(ADDRESS, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def main() -> None:
    token = ""
    while True:
        try:
            if not token:
                lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
                status, text = request("PUT", "/latest/api/token", lifetime)
                token = text if status == 200 else ""
            path = "/latest/meta-data/spot/instance-action"
            status, text = request("GET", path, {"X-aws-ec2-metadata-token": token})
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
