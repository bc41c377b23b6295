"""Marks and markers: all kinds of values on one axis, one color per family, labels that cover nothing."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from genbench.report.markers import family_colors, label_points, marker_meanings
from genbench.report.marks import ranking_marks
from tests.report.records import board_of, family_records, record, row_of


def test_all_kinds_of_values_of_all_families_share_one_axis_with_their_own_markers():
    board = board_of(family_records())
    marks = ranking_marks(board, 20)
    assert [(mark.row.name, mark.column.measurement, mark.column.kind) for mark in marks] == [
        ("PixelCNN", "bpd", "exact"),
        ("NSF", "bpd", "bound"),
        ("VAE", "bpd", "bound"),
        ("VAE", "ais_bpd", "bound"),
        ("GAN", "ais_bpd", "estimate"),
        ("GMM", "bpd", "bound"),
    ]
    assert marker_meanings(marks) == {
        "o": "exact",
        "<": "bound, at most: L_16",
        "D": "bound by annealing, at most: 2 chains",
        "s": "estimate by annealing: sigma 0.25",
    }
    assert list(family_colors(board)) == ["flows", "vaes", "autoregressive", "gans", "mixtures"]
    assert len(set(family_colors(board).values())) == 5
    assert next(cell.rank for row in board.rows for cell in row.cells.values() if row.name == "GAN") == 1


def test_a_family_has_the_same_color_on_every_board_and_a_single_one_needs_none():
    few = [r for r in family_records() if r.run.name in ("VAE", "GMM")]
    assert family_colors(board_of(few)).items() < family_colors(board_of(family_records())).items()
    assert family_colors(board_of([*row_of([1.0]), *row_of([2.0], "MAF")])) == {}
    other = record("Theirs", run={"model": "zuko_flows:NSF"})
    assert list(family_colors(board_of([*row_of([1.0]), other]))) == ["flows", "zuko_flows"]


def test_labels_cover_neither_each_other_nor_points_and_stay_inside_the_axes():
    rng = np.random.default_rng(0)
    figure = Figure(figsize=(6.5, 4))
    axes, points = figure.subplots(), [tuple(xy) for xy in rng.uniform(size=(12, 2))]
    axes.plot(*zip(*points, strict=True), "o")
    label_points(axes, points, [f"row number {i}" for i in range(12)])
    FigureCanvasAgg(figure).draw()
    boxes, inside = [text.get_window_extent() for text in axes.texts], axes.get_window_extent()
    assert not any(a.padded(-2).overlaps(b.padded(-2)) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.padded(-3).x0 > inside.x0 and box.padded(-3).x1 < inside.x1 for box in boxes)
    assert not any(box.padded(-2).contains(*axes.transData.transform(point)) for box in boxes for point in points)
