"""Plots: one kind after the other, with readable names."""

from __future__ import annotations

from genbench.report.board import boards
from genbench.report.curves import newest_curves
from genbench.report.figures import figures, plot_learning_curves, plot_quality
from genbench.report.tidy import by_run, lines, metrics_by_suite
from tests.report.records import CURVE, board_of, family_records, row_of


def test_every_board_has_its_first_plot_before_any_has_a_second():
    records = [r for i in range(5) for r in row_of([1.0, 1.2], data=f"d{i}", curve=CURVE)]
    tables = boards(lines(by_run(records)), metrics_by_suite(records))
    names = [name for name, _ in figures(tables, newest_curves(by_run(records)), 7)]
    assert [name.split(".")[-2] for name in names] == ["intervals"] * 5 + ["learning"] * 2


def test_fid_is_plotted_against_likelihood_if_two_rows_have_both():
    board = board_of(family_records())
    figure = plot_quality(board)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    assert {text.get_text() for text in axes.texts} == {"VAE", "GAN", "GMM", "new data"}
    assert plot_quality(board_of([r for r in family_records() if r.run.name in ("VAE", "NSF")])) is None
    assert plot_quality(board_of(row_of([1.0, 2.0]))) is None


def test_names_with_a_leading_underscore_are_in_the_legend():
    records = [*row_of([1.0, 1.1], "_x", curve=CURVE), *row_of([1.0, 1.1], "y", curve=CURVE)]
    figure = plot_learning_curves(board_of(records), newest_curves(by_run(records)))
    (axes,) = figure.axes
    assert {text.get_text().strip() for text in axes.get_legend().get_texts()} == {"_x", "y"}
