"""Learning curves: the newest of each run, thinned for drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genbench.records.record import Point
from genbench.report.board import Board, Row
from genbench.report.tidy import Runs

MAX_POINTS = 60  # of a curve

Curves = Mapping[tuple[str, str], Sequence[Point]]  # by suite and run id


def newest_curves(runs: Runs) -> Curves:
    """Return the newest learning curve of each run, by suite and run id."""
    return {key: record.curve for key, executions in runs.items() for record in executions if record.curve}


def row_curve(board: Board, row: Row, curves: Curves) -> Sequence[Point]:
    """Return the thinned learning curve of the row's first seed that has one; () if none has."""
    for run_id in row.run_ids.values():
        if points := curves.get((board.suite, run_id)):
            return thin(points)
    return ()


def thin(points: Sequence[Point], max_points: int = MAX_POINTS) -> Sequence[Point]:
    """Return at most `max_points` of `points`, evenly spaced, with the first and the last."""
    if len(points) <= max_points:
        return points
    return [points[round(i * (len(points) - 1) / (max_points - 1))] for i in range(max_points)]
