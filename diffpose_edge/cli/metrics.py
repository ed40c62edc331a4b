"""``--metrics-port``: the commands' metrics while they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import typer

from diffpose_edge.cli.terminal import say
from diffpose_edge.metrics_endpoint import LOOPBACK, MetricsEndpoint
from diffpose_edge.readings import Readable

__all__ = ["LOOPBACK", "MetricsAddress", "MetricsPort", "metrics_at"]

MetricsPort = Annotated[
    int | None, typer.Option("--metrics-port", metavar="PORT", help="Export metrics for Prometheus at this port meanwhile; 0: a free one.")
]
MetricsAddress = Annotated[
    str,
    typer.Option("--metrics-address", help="Address to be heard at; anybody who reaches it can read them (default: this machine alone)."),
]


@contextmanager
def metrics_at(port: int | None, address: str, sources: Mapping[str, Readable]) -> Iterator[None]:
    """Serve the readings of ``sources`` meanwhile, if a port was named. Raises MissingPackage, BridgeError."""
    if port is None:
        yield
        return
    with MetricsEndpoint(sources, port, address) as endpoint:
        say(f"metrics: {endpoint.url}")
        yield
