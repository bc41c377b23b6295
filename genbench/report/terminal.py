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
from genbench.report.board import Board, Column, Row
from genbench.report.boards import boards
from genbench.report.protocol import hardware, protocol, seeds, suite_files
from genbench.report.published import with_published
from genbench.report.text import fixed, notes, number
from genbench.report.tidy import by_run, code_of, lines, metrics_of, newest, settings, weights_of

BOARDS, ROWS, NAME = 20, 20, 30  # boards, rows of a board, and letters of a name, that are printed
HIDDEN = 40  # columns without room that are named


def leaderboard(records: Iterable[Record], console: Console) -> None:
    """Print a table for each suite and data set, with as many columns as fit."""
    records = list(records)
    suites = suite_files(records)
    tables = boards(lines(by_run(records)), metrics_of(records, suites.values()), weights_of(records))
    print_boards([with_published(board, suites.get((board.suite, board.version))) for board in tables], console)


def print_boards(tables: Iterable[Board], console: Console) -> None:
    """Print `tables`, as many rows and columns as there is room for; of many, those with the newest records."""
    tables = list(tables)
    shown = sorted(range(len(tables)), key=lambda i: tables[i].newest)[-BOARDS:]
    for i in sorted(shown):
        _print(tables[i], console)
    if len(shown) < len(tables):
        left = f"and {len(tables) - len(shown)} more tables in the report, whose records are older\n"
        console.print(left, style="dim", highlight=False, markup=False)


def _print(board: Board, console: Console) -> None:
    columns = fitting(board, console.width)
    table = Table(
        box=box.SIMPLE_HEAD if console.is_terminal else None,
        title=Text(printable(f"{board.suite} v{board.version} / {board.data}")),
        title_justify="left",
    )
    table.add_column("#", justify="right")
    table.add_column("model", no_wrap=True, overflow="ellipsis", max_width=NAME)
    for column in columns:
        head = f"{printable(column.heading)}\n{printable(column.shown_unit)}"
        table.add_column(Text(head), justify="right", no_wrap=True)
    for row in board.rows[:ROWS]:
        table.add_row(*_row(board, row, columns))
    console.print(table)
    for line in (*_left_out(board, columns), f"{seeds(board)}; {protocol(board)}", ""):
        console.print(printable(line), style="dim", highlight=False, markup=False)


def _left_out(board: Board, columns: list[Column]) -> Iterator[str]:
    """Yield what the report has and the terminal has no room for."""
    rows, hidden = board.rows[ROWS:], [c.measurement.replace("_", " ") for c in board.columns if c not in columns]
    if rows:
        yield f"and {len(rows)} more rows, {sum(bool(row.failures) for row in rows)} of them with failed runs"
    if hidden:
        names = list(dict.fromkeys(hidden))
        more = f" and {len(names) - HIDDEN} more" if len(names) > HIDDEN else ""
        yield f"not shown here: {', '.join(names[:HIDDEN])}{more}"


def fitting(board: Board, width: int) -> list[Column]:
    """Return the columns that fit in `width` characters beside the rows' names: the primary, the speed, the others."""
    left = width - 8 - min(NAME, max((cell_len(printable(row.label)) for row in board.rows), default=0))
    chosen: list[Column] = []
    for column in sorted(board.columns, key=lambda c: (c.measurement != board.primary, c != board.speed)):
        texts = [plain(board, row, column) for row in board.rows[:ROWS]]
        left -= 2 + max(cell_len(printable(text)) for text in [column.heading, column.shown_unit, *texts])
        if left < 0 and chosen:
            break
        chosen.append(column)
    return chosen


def plain(board: Board, row: Row, column: Column) -> str:
    """Return a cell as plain text: mean, interval, what must be said beside it, rank."""
    cell, said = row.cells.get(column), notes(board, row, column)
    if cell is None:
        return said or "-"
    rank = f"#{cell.rank}" if cell.rank and column != board.columns[0] else ""
    parts = (cell.mean_text, cell.interval_text, f"({said})" if said else "", rank)
    return printable(" ".join(part for part in parts if part) or "no value")


def _row(board: Board, row: Row, columns: list[Column]) -> list[Text]:
    first = row.cells.get(board.columns[0]) if board.columns else None
    rank = str(first.rank) if first and first.rank else "-"
    cells = [_styled(board, row, column) for column in columns]
    return [Text(rank), Text(_name(row) + (" †" if row.dirty else "")), *(cells or [Text(printable(row.failures))])]


def _name(row: Row) -> str:
    """Return the label, cut so that a mark at its end is not."""
    label, name = printable(row.label), printable(row.name)
    cut = NAME - len(label) + len(name)
    return label if len(label) <= NAME or not row.published else f"{name[: cut - 1]}…, published"


def _styled(board: Board, row: Row, column: Column) -> Text:
    cell, text = row.cells.get(column), plain(board, row, column)
    if cell is None and text != "-":
        return Text(text, "red")
    if row.published:
        return Text(text, "dim")
    if cell and cell.invalid:
        return Text(text, "red")
    return Text(text, "bold" if cell and cell.rank == 1 else "")


def show(records: Iterable[Record], console: Console) -> None:
    """Print all that the executions of one run say, the newest measurement of each name with where it is from."""
    executions = sorted(records, key=lambda record: record.execution)
    run = executions[-1].run
    lines = [f"{run}, {run.suite} v{run.version}, id {run.id}", settings(run)]
    lines += [f"on {place}" for place in dict.fromkeys(hardware(record.environment) for record in executions)]
    lines += [record.command for record in executions[-1:] if record.command]
    for line in lines:
        console.print(printable(line), markup=False, highlight=False)
    console.print(_executions(executions), _measurements(executions), sep="\n")
    for record in executions:
        for name, path in record.files.items():
            console.print(printable(f"{name}: {path}"), markup=False, highlight=False)


def _executions(executions: list[Record]) -> Table:
    table = Table("", "execution", "status", "tries", "seconds", "code", box=None)
    for i, record in enumerate(executions):
        commit, dirty = code_of(record)
        code = f"{(commit or '?')[:10]}{' †' if dirty else ''}"
        status = f"{record.status}{f': {record.error}' if record.error else ''}"
        seconds = fixed(record.timings["total"], 1) if "total" in record.timings else ""
        table.add_row(*map(_literal, (str(i), record.execution, status, str(record.attempts), seconds, code)))
    return table


def _measurements(executions: list[Record]) -> Table:
    table = Table("measurement", "value", "unit", "kind", "n", "stderr", "by", "execution", box=None)
    for name, record in newest(executions).items():
        m = record.measurements[name]
        value = "none" if m.value is None else number(m.value, m.unit, m.stderr)
        stderr = "" if m.stderr is None else f"{m.stderr:.2g}"
        texts = (name, value, m.unit, m.kind, str(m.n), stderr, m.impl, str(executions.index(record)))
        table.add_row(*map(_literal, texts))
    return table


def _literal(text: str) -> str:
    return escape(printable(text))
