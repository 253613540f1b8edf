"""`GET /metrics`: the daemon's figures in the text format of Prometheus.

Owns writing them in that format, by prometheus-client. Its import takes 60 ms and 8 MiB, so it happens with the first
request, in a thread. Must not know what the figures mean.
"""

from collections.abc import Callable, Iterable
from functools import partial

from ccexecd.core.principals import Scope
from ccexecd.external.request import Request, Response, Route
from ccexecd.service.figures import Figure
from ccexecd.threads import NoThreadError, in_thread

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of the text format, version 0.0.4."""


def metrics_route(figures: Callable[[], Iterable[Figure]]) -> Route:
    """Make the route of `/metrics`.

    Args:
        figures: gives the daemon's figures.
    """

    async def answer(_: Request) -> Response:
        told = list(figures())
        try:
            text = await in_thread(partial(written, told))
        except NoThreadError:  # it is now that people look
            text = written(told)
        return Response(200, CONTENT_TYPE, text)

    return Route(("GET",), answer, scope=Scope.OBSERVE)


def written(figures: Iterable[Figure]) -> bytes:
    """Figures in the text format. It blocks."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric  # noqa: PLC0415
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class Figures(Collector):
        def collect(self) -> Iterable[Metric]:
            for figure in figures:
                labels = [figure.label] if figure.label else []
                kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
                family = kind(figure.name, figure.meaning, labels=labels)
                for label, value in figure.values.items():
                    family.add_metric([label] if labels else [], value)
                yield family

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures())
    return generate_latest(registry)
