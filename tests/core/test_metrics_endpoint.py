"""The endpoint as a resource: ports, addresses, clients that misbehave. What it exports: tests/runtime/test_counters.py."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from diffpose_edge import metrics_endpoint
from diffpose_edge.errors import BridgeError, MissingPackage
from diffpose_edge.metrics_endpoint import MOST_CLIENTS, MetricsEndpoint
from diffpose_edge.readings import Reading

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed: pip install '.[metrics]'")


class Source:
    about = {"who": "me"}  # noqa: RUF012
    reading = Reading("diffpose_estimates_total", 3)

    def readings(self) -> list[Reading]:
        return [self.reading]


def asked(url: str, accept: str = "text/plain") -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=10) as answer:
        return str(answer.read().decode())


def test_it_is_heard_on_this_machine_alone_and_frees_its_port() -> None:
    with MetricsEndpoint({"camera": Source()}, 0) as endpoint:
        place = urlsplit(endpoint.url)
        assert (place.hostname, place.path) == ("127.0.0.1", "/metrics")
        assert endpoint._server.socket.getsockname()[0] == "127.0.0.1"
        assert 'diffpose_estimates_total{source="camera"} 3.0' in asked(endpoint.url)
        assert asked(endpoint.url, "application/openmetrics-text; version=1.0.0").endswith("# EOF\n")
    endpoint.close()
    assert place.port is not None
    with MetricsEndpoint({}, place.port):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "diffpose-edge-metrics"]


def test_a_port_that_is_taken_and_an_address_that_is_nobodys_are_refused() -> None:
    with MetricsEndpoint({}, 0) as endpoint, pytest.raises(BridgeError, match=r"cannot serve metrics at 127\.0\.0\.1, port \d+: .*in use"):
        MetricsEndpoint({}, int(urlsplit(endpoint.url).port or 0))
    with pytest.raises(BridgeError, match="such as 127"):
        MetricsEndpoint({}, 0, "no such name")
    with pytest.raises(BridgeError, match="cannot serve metrics at 192"):
        MetricsEndpoint({}, 0, "192.0.2.1")
    for port in (-1, 65536, "80", True):
        with pytest.raises(BridgeError, match=r"within 0\.\.65535"):
            MetricsEndpoint({}, port)  # type: ignore[arg-type]


def test_another_address_is_served_where_it_is_named() -> None:
    with MetricsEndpoint({"camera": Source()}, 0, "") as endpoint:
        port = urlsplit(endpoint.url).port
        assert endpoint._server.socket.getsockname()[0] in ("0.0.0.0", "::")
        assert "diffpose_estimates_total" in asked(f"http://127.0.0.1:{port}/metrics")


def test_clients_that_say_nothing_cost_a_few_threads_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_endpoint._Handler, "timeout", 0.3)
    with MetricsEndpoint({"camera": Source()}, 0) as endpoint:
        before, place = threading.active_count(), urlsplit(endpoint.url)
        silent = [socket.create_connection((place.hostname, place.port), timeout=10) for _ in range(3 * MOST_CLIENTS)]
        time.sleep(0.15)
        assert threading.active_count() <= before + MOST_CLIENTS
        # Every one of them is given up, the first at once.
        assert [client.recv(1) for client in silent] == [b""] * len(silent)
        for client in silent:
            client.close()
        assert "diffpose_estimates_total" in asked(endpoint.url)


def test_a_source_that_fails_answers_500_and_the_next_scrape_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(Source):
        fails = True

        def readings(self) -> list[Reading]:
            return [Reading("nonsense")] if self.fails else super().readings()

    source = Failing()
    with MetricsEndpoint({"camera": source}, 0) as endpoint:
        with pytest.raises(urllib.error.HTTPError, match="500"):
            asked(endpoint.url)
        source.fails = False
        assert "diffpose_estimates_total" in asked(endpoint.url)


def test_without_prometheus_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpose_edge.extras.is_installed", lambda module: False)
    with pytest.raises(MissingPackage, match="pip install prometheus-client"):
        MetricsEndpoint({}, 0)
