"""AWS over HTTP: how boto behaves with a real connection, and with none."""

from __future__ import annotations

import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from bake.aws.client.session import Cloud, connect
from bake.aws.client.wait import Clock
from bake.aws.launch import run_machine
from bake.aws.price import price_errors, volume_price
from bake.errors import CapacityError, NoAnswerError
from bake.threads import together
from tests.support.aws_in_process import REGION, aws_in_process


def test_an_endpoint_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(NoAnswerError) as caught:
        connect("us-east-1")
    assert caught.value.code == "EndpointConnectionError"
    assert "AWS_ENDPOINT_URL" in caught.value.hint


def test_bakes_of_one_process_share_clients_and_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = threading.Barrier(50)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if "GetCallerIdentity" in asked:
                body = (
                    "<R><GetCallerIdentityResult><Account>1</Account></GetCallerIdentityResult></R>"
                )
            else:
                here.wait(30)
                body = "<R><vpcSet/></R>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 100
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        cloud = connect("us-east-1")
        made: list[str] = []
        make = cloud.session.client

        def client(name: str, **more: Any) -> Any:
            made.append(name)
            return make(name, **more)

        def bake() -> None:
            cloud.separate().ec2("DescribeVpcs")

        monkeypatch.setattr(cloud.session, "client", client)
        # The server responds when all fifty calls have arrived.
        together(*[bake] * 50)
        server.shutdown()
    assert made == ["ec2"]
    assert "pool is full" not in caplog.text


class FullEc2(BaseHTTPRequestHandler):
    """An EC2 over HTTP that has no capacity."""

    def __init__(self, asked: list[str], *request: Any) -> None:
        self.asked = asked
        super().__init__(*request)

    def do_POST(self) -> None:
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.asked += body["Action"]
        full = body["Action"] == ["RunInstances"]
        answer = (
            "<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code><Message>None."
            "</Message></Error></Errors><RequestID>r</RequestID></Response>"
            if full
            else "<DescribeInstancesResponse/>"
        ).encode()
        self.send_response(500 if full else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_over_http_no_placement_is_requested_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto would retry the status 500 of this response, so the test needs a real HTTP response."""
    with aws_in_process() as aws:
        placements = [aws.placement(zone=zone) for zone in "abc"]
        order, run = aws.order("k", "sg-1"), aws.run
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(FullEc2, asked))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    session = boto3.Session("AKIA", "secret", region_name=REGION)
    slept: list[float] = []
    cloud = Cloud(session, "123456789012", clock=Clock(sleep=slept.append))
    try:
        with pytest.raises(CapacityError) as caught:
            run_machine(cloud, run, order, placements)
        assert asked.count("RunInstances") == len(caught.value.details) == 3
        assert slept == []
        # With boto's default, each would have been requested three times.
        client = session.client("ec2", config=Config(retries={"mode": "standard"}))
        monkeypatch.setattr("time.sleep", slept.append)
        with pytest.raises(ClientError):
            client.run_instances(ImageId="ami-1", MinCount=1, MaxCount=1)
        assert asked.count("RunInstances") == 3 + 3
    finally:
        server.shutdown()
        server.server_close()


def test_after_a_network_error_prices_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    session = boto3.Session("AKIA", "secret", region_name=REGION)
    cloud = Cloud(session, "123456789012", clock=Clock(sleep=lambda seconds: None))
    monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", "http://127.0.0.1:1")
    assert volume_price(cloud) is None
    assert [refusal.code for refusal in price_errors(cloud)] == ["EndpointConnectionError"]
