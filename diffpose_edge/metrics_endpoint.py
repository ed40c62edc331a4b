"""Readings for whoever watches a robot: an HTTP endpoint in the text format of Prometheus, or OpenMetrics, as the client asks.

``prometheus_client`` writes the formats; what is exported is read when somebody asks, so counting costs nothing more. It is opt-in, and
heard on this machine alone unless another address is named: there is no password and no encryption.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from diffpose_edge.errors import BridgeError
from diffpose_edge.extras import require
from diffpose_edge.readings import BOUNDS_S, METRICS, Histogram, Readable, Reading

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

LOOPBACK = "127.0.0.1"
# A client that says nothing for so long is given up, and so many are served at once: nobody can hold a robot's threads or memory.
PATIENCE_S = 5.0
MOST_CLIENTS = 8
log = logging.getLogger(__name__)


class MetricsEndpoint:
    """Serves the readings of ``sources`` until ``close()``; use it with ``with``.

    sources: what is read, by the name that its readings get as label ``source``: a PoseRuntime, a PoseStream, a DdsBridge; they stay yours.
    port: 0 takes a free one. address: a name or an address of this machine; "" is all of them. Beside the readings it exports the
    process's own memory, processor time and files (Linux).

    Raises MissingPackage without prometheus_client, BridgeError for an address or a port that is not to be had.
    """

    def __init__(self, sources: Mapping[str, Readable], port: int, address: str = LOOPBACK):
        require("prometheus_client")
        from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

        if type(port) is not int or not 0 <= port <= 65535:
            raise BridgeError(f"expected a port within 0..65535, got {port!r}")
        registry = CollectorRegistry()
        registry.register(_Readings(sources))
        ProcessCollector(registry=registry)
        self._server = _opened(address, port)
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="diffpose-edge-metrics", daemon=True)
        self._thread.start()
        self._closed = False

    @property
    def url(self) -> str:
        """Where it is to be asked."""
        host, port = self._server.server_address[:2]
        host = str(host)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def close(self) -> None:
        """Free the port; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def __enter__(self) -> MetricsEndpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None) -> None:
        self.close()


class _Readings:
    """A collector of prometheus_client's: asks the sources at each scrape."""

    def __init__(self, sources: Mapping[str, Readable]):
        self._sources = dict(sources)

    def collect(self) -> Iterator[Metric]:
        by_name: dict[str, list[tuple[str, Reading]]] = {}
        for source, readable in self._sources.items():
            for reading in readable.readings():
                by_name.setdefault(reading.name, []).append((source, reading))
        for name in METRICS:
            if name in by_name:
                yield _family(name, by_name[name])

    def describe(self) -> Iterable[Metric]:
        """Name nothing: sources may be read before they have anything to say."""
        return []


def _family(name: str, readings: Iterable[tuple[str, Reading]]) -> Metric:
    """Return readings of one name as prometheus_client has them."""
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, InfoMetricFamily

    metric = METRICS[name]
    if metric.kind == "info":
        info = InfoMetricFamily(name.removesuffix("_info"), metric.told, labels=("source",))
        for source, reading in readings:
            info.add_metric([source], dict(reading.labels))
        return info
    family: Any = (CounterMetricFamily if metric.kind == "counter" else HistogramMetricFamily)(
        name, metric.told, labels=("source", *metric.labels)
    )
    for source, reading in readings:
        value = reading.value
        labels = [source, *(reading.labels[label] for label in metric.labels)]
        family.add_metric(labels, *(_cumulative(value) if isinstance(value, Histogram) else (value,)))
    return family


def _cumulative(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Return buckets as the format has them, each with all that is below it, and the sum."""
    below, buckets = 0, []
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), histogram.counts, strict=True):
        below += count
        buckets.append((bound, float(below)))
    return buckets, histogram.total_s


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each client, of whom there are few at once."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int]):
        self.address_family = family
        self._seats = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # http.server looks up the machine's name here, which takes seconds where no name server answers.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._seats.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._seats.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away, or said nothing for too long: no news either.
        log.debug("a client of the metrics was given up", exc_info=True, extra={"event": "metrics_client"})


def _opened(address: str, port: int) -> _Server:
    try:
        family, _, _, _, place = socket.getaddrinfo(address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as err:
        raise BridgeError(f"expected an address of this machine to serve metrics at, such as {LOOPBACK}; got {address!r} ({err})") from err
    try:
        return _Server(family, (str(place[0]), int(place[1])))
    except OSError as err:
        raise BridgeError(
            f"cannot serve metrics at {address or 'every address'}, port {port}: {err.strerror or err}. "
            f"Name another port; 0 takes a free one"
        ) from err
