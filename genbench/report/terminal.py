"""The leaderboard and single runs on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from genbench.console import printable
from genbench.records.record import Record
from genbench.report.board import Board, Row
from genbench.report.columns import Column
from genbench.report.formatting import format_fixed, format_number
from genbench.report.labels import measurement_label, unit_label
from genbench.report.notes import cell_notes
from genbench.report.protocol import describe_hardware, describe_protocol, describe_seeds
from genbench.report.suite_files import leaderboards, suite_files
from genbench.report.tidy import by_run, commit_of, lines, newest_by_measurement, protocol_settings

MAX_BOARDS, MAX_ROWS = 20, 20  # printed boards, and rows of a board
NAME_WIDTH = 30  # columns of the terminal for the name of a row
MAX_HIDDEN_NAMES = 40  # columns without space that are listed by name


# ------------------------------------------------------------------------------------------------------ leaderboards


def leaderboard(records: Iterable[Record], console: Console) -> None:
    """Print one table per suite and data set, with as many columns as fit."""
    records = list(records)
    print_boards(leaderboards(records, lines(by_run(records)), suite_files(records)), console)


def print_boards(tables: Iterable[Board], console: Console) -> None:
    """Print `tables`, each with as many rows and columns as fit; of too many, those with the newest records."""
    tables = list(tables)
    newest = sorted(range(len(tables)), key=lambda i: tables[i].newest_execution)[-MAX_BOARDS:]
    for i in sorted(newest):
        _print_board(tables[i], console)
    if len(newest) < len(tables):
        left_out = f"and {len(tables) - len(newest)} more tables in the report, with older records\n"
        console.print(left_out, style="dim", highlight=False, markup=False)


def _print_board(board: Board, console: Console) -> None:
    columns = fitting_columns(board, console.width)
    table = Table(
        box=box.SIMPLE_HEAD if console.is_terminal else None,
        title=Text(printable(f"{board.suite} v{board.version} / {board.data}")),
        title_justify="left",
    )
    table.add_column("#", justify="right")
    table.add_column("model", no_wrap=True, overflow="ellipsis", max_width=NAME_WIDTH)
    for column in columns:
        head = f"{printable(column.heading)}\n{printable(column.subheading)}"
        table.add_column(Text(head), justify="right", no_wrap=True)
    for row in board.rows[:MAX_ROWS]:
        table.add_row(*_table_row(board, row, columns))
    console.print(table)
    for line in (*_left_out(board, columns), f"{describe_seeds(board)}; {describe_protocol(board)}", ""):
        console.print(printable(line), style="dim", highlight=False, markup=False)


def _left_out(board: Board, columns: list[Column]) -> Iterator[str]:
    """Yield lines about the rows and columns of the report that do not fit on the terminal."""
    rows = board.rows[MAX_ROWS:]
    if rows:
        yield f"and {len(rows)} more rows, {sum(bool(row.failures) for row in rows)} of them with failed runs"
    names = list(dict.fromkeys(c.label for c in board.columns if c not in columns))
    if names:
        more = f" and {len(names) - MAX_HIDDEN_NAMES} more" if len(names) > MAX_HIDDEN_NAMES else ""
        yield f"not shown here: {', '.join(names[:MAX_HIDDEN_NAMES])}{more}"


def fitting_columns(board: Board, width: int) -> list[Column]:
    """Return the columns that fit into `width` next to the names: the ranking measurement, speed, then the others."""
    left = width - 8 - min(NAME_WIDTH, max((cell_len(printable(row.label)) for row in board.rows), default=0))
    chosen: list[Column] = []
    for column in sorted(board.columns, key=lambda c: (c.measurement != board.primary, c != board.speed)):
        texts = [cell_text(board, row, column) for row in board.rows[:MAX_ROWS]]
        left -= 2 + max(cell_len(printable(text)) for text in [column.heading, column.subheading, *texts])
        if left < 0 and chosen:
            break
        chosen.append(column)
    return chosen


def cell_text(board: Board, row: Row, column: Column) -> str:
    """Return a cell as plain text: mean, interval, notes, rank."""
    cell, notes = row.cells.get(column), cell_notes(board, row, column)
    if cell is None:
        return notes or "-"
    rank = f"#{cell.rank}" if cell.rank and column != board.columns[0] else ""
    parts = (cell.mean_text, cell.interval_text, f"({notes})" if notes else "", rank)
    return printable(" ".join(part for part in parts if part) or "no value")


def _table_row(board: Board, row: Row, columns: list[Column]) -> list[Text]:
    first = row.cells.get(board.columns[0]) if board.columns else None
    rank = str(first.rank) if first and first.rank else "-"
    cells = [_styled_cell(board, row, column) for column in columns]
    name = _shortened_label(row) + (" †" if row.dirty else "")
    return [Text(rank), Text(name), *(cells or [Text(printable(row.failures))])]


def _shortened_label(row: Row) -> str:
    """Return the label; if it is too long, the name in it is shortened and the mark of a published row stays."""
    label, name = printable(row.label), printable(row.name)
    room = NAME_WIDTH - len(label) + len(name)
    return label if len(label) <= NAME_WIDTH or not row.published else f"{name[: room - 1]}…, published"


def _styled_cell(board: Board, row: Row, column: Column) -> Text:
    cell, text = row.cells.get(column), cell_text(board, row, column)
    if cell is None and text != "-":
        return Text(text, "red")
    if row.published:
        return Text(text, "dim")
    if cell and cell.n_invalid:
        return Text(text, "red")
    return Text(text, "bold" if cell and cell.rank == 1 else "")


# ------------------------------------------------------------------------------------------------------- single runs


def show(records: Iterable[Record], console: Console) -> None:
    """Print all executions of one run, and the newest value of each measurement with the # of its execution."""
    executions = sorted(records, key=lambda record: record.execution)
    run = executions[-1].run
    header = [f"{run}, {run.suite} v{run.version}, id {run.id}", protocol_settings(run)]
    header += [f"on {hardware}" for hardware in dict.fromkeys(describe_hardware(r.environment) for r in executions)]
    header += [record.command for record in executions[-1:] if record.command]
    for line in header:
        console.print(printable(line), markup=False, highlight=False)
    console.print(_executions_table(executions), _measurements_table(executions), sep="\n")
    for record in executions:
        for name, path in record.files.items():
            console.print(printable(f"{name}: {path}"), markup=False, highlight=False)


def _executions_table(executions: list[Record]) -> Table:
    table = Table("#", "execution", "status", "attempts", "seconds", "code", box=None)
    for i, record in enumerate(executions):
        commit, dirty = commit_of(record)
        code = f"{(commit or '?')[:10]}{' †' if dirty else ''}"
        status = f"{record.status}{f': {record.error}' if record.error else ''}"
        seconds = format_fixed(record.timings["total"], 1) if "total" in record.timings else ""
        table.add_row(*map(_literal, (str(i), record.execution, status, str(record.attempts), seconds, code)))
    return table


def _measurements_table(executions: list[Record]) -> Table:
    table = Table("measurement", "value", "unit", "kind", "n", "stderr", "metric", "#", box=None)
    for key, record in newest_by_measurement(executions).items():
        m = record.measurements[key]
        value = "none" if m.value is None else format_number(m.value, m.unit, m.stderr)
        stderr = "" if m.stderr is None else f"{m.stderr:.2g}"
        label = measurement_label(key)
        unit, number = unit_label(m.unit, label), str(executions.index(record))
        texts = (label, value, unit, m.kind, str(m.n), stderr, m.impl, number)
        table.add_row(*map(_literal, texts))
    return table


def _literal(text: str) -> str:
    return escape(printable(text))
