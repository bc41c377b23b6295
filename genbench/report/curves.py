"""Learning curves: the newest of each run, thin enough to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genbench.records.record import Point
from genbench.report.board import Board, Row
from genbench.report.tidy import Runs

POINTS = 60  # of a curve at most

Curves = Mapping[tuple[str, str], Sequence[Point]]


def curves_of(runs: Runs) -> Curves:
    """Return each run's newest learning curve, by suite and run id."""
    return {key: record.curve for key, executions in runs.items() for record in executions if record.curve}


def curve_of(board: Board, row: Row, curves: Curves) -> Sequence[Point]:
    """Return the learning curve of the row's first seed that has one, thinned; () if none has."""
    for run in row.ids.values():
        if points := curves.get((board.suite, run)):
            return thinned(points)
    return ()


def thinned(points: Sequence[Point], most: int = POINTS) -> Sequence[Point]:
    """Return at most `most` of `points`, evenly spaced, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
