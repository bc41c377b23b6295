"""The fold over seeds: runs -> rows and cells, with intervals, completeness and ranks.

A row is a name within (suite, version, data). A column is a measurement of one kind: exact values, bounds and
estimates never share one. A cell is where they meet: mean and interval over the seeds of the row.
"""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pandas as pd

from genbench.report.intervals import Sample, half_width, ranks

BOARD = ["suite", "version", "data"]
ROW = [*BOARD, "row"]
COLUMN = [*BOARD, "measurement", "kind"]
CELL = [*ROW, "measurement", "kind"]


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` (see tidy) with a column `row`: the name, and where one name stands for several protocols
    (``--set`` was used, or the suite changed under one version) also the settings in which they differ."""
    names = [*BOARD, "name"]
    several = frame.groupby(names)["settings"].transform("nunique") > 1
    frame = frame.assign(row=frame["name"])
    for _, group in frame[several].groupby(names):
        frame.loc[group.index, "row"] = group["name"] + group["settings"].map(_differences(list(group["settings"])))
    return frame


def _differences(settings: list[str]) -> dict[str, str]:
    flat = {text: _flat(json.loads(text)) for text in sorted(set(settings))}
    keys = sorted({key for said in flat.values() for key in said})
    differ = [key for key in keys if len({str(said.get(key)) for said in flat.values()}) > 1]
    described = {text: [f"{key}={said.get(key, 'default')}" for key in differ] for text, said in flat.items()}
    return {text: f" ({', '.join(parts)})" for text, parts in described.items()}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one line per row of the labelled `frame`: model, settings, runs, seeds, whether the code was dirty,
    `failures` ("diverged 1/3": runs without any ok execution, or ""), `later` (an ok run that failed when it was
    executed again for more) and `verdicts` ("collapsed 1/3": of measurements, on runs that were ok)."""
    runs = frame.groupby(ROW, sort=False).agg(
        model=("model", "last"), settings=("settings", "last"), runs=("id", "nunique"), dirty=("dirty", "max")
    )
    ok = (frame["status"] == "ok").groupby([frame["suite"], frame["id"]]).transform("max")
    failed = frame[frame["status"] != "ok"]
    runs["dirty"] = runs["dirty"].fillna(False).astype(bool)
    said = frame[frame["verdict"].notna()]
    counted = {
        "failures": failed[~ok[failed.index]], "later": failed[ok[failed.index]],
        "verdicts": said.assign(status=said["verdict"]),
    }  # fmt: skip
    for column, part in counted.items():
        runs[column] = _counted(part, runs["runs"]).reindex(runs.index, fill_value="")
    return runs.reset_index()


def _counted(failed: pd.DataFrame, runs: pd.Series[int]) -> pd.Series[str]:
    counts = failed.groupby([*ROW, "status"])["id"].nunique().reset_index(name="count")
    counts = counts.join(runs, on=ROW)
    counts["text"] = [f"{s} {c}/{n}" for s, c, n in zip(counts["status"], counts["count"], counts["runs"], strict=True)]
    return cast("pd.Series[str]", counts.groupby(ROW)["text"].agg(", ".join).astype(object))


def cells(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line per cell of the labelled `frame`: n, mean, std, half (of the t-interval at 95 %), stderr (of
    the test set: root mean square over seeds), p20 and p80 (of a timing's repetitions, where n is 1), rank and, where
    there is none, `unranked`: why."""
    held = frame[frame["measurement"].notna()]
    held = held.assign(impl=held["impl"] + " " + held["data_sha256"].astype(object).fillna(""))
    found = held.assign(square=held["stderr"] ** 2).groupby(CELL, sort=False).agg(
        unit=("unit", "last"), better=("better", "last"), impl=("impl", "last"), impls=("impl", "nunique"),
        n=("value", "count"), mean=("value", "mean"), std=("value", "std"), square=("square", "mean"),
        p20=("p20", "last"), p80=("p80", "last"),
    )  # fmt: skip
    found["half"] = half_width(found["std"].to_numpy(), found["n"].to_numpy())
    found["stderr"] = np.sqrt(found.pop("square"))
    found["missing"] = _missing(held).reindex(found.index).fillna(0)
    found = found.reset_index().merge(rows[[*ROW, "failures"]], on=ROW)
    found["unranked"] = _unranked(found, held.sort_values("execution").groupby(COLUMN)["impl"].last())
    return _ranked(found)


def _missing(held: pd.DataFrame) -> pd.Series[int]:
    """Return by cell how many seeds it lacks of those that more than half of the column's rows have."""
    valued = held[held["value"].notna()]
    rows_of = valued.groupby(COLUMN)["row"].nunique().rename("rows")
    usual = valued.groupby([*COLUMN, "seed"])["row"].nunique().rename("count").reset_index().join(rows_of, on=COLUMN)
    usual = usual[usual["count"] * 2 > usual["rows"]][[*COLUMN, "seed"]]
    wanted = held[CELL].drop_duplicates().merge(usual, on=COLUMN)
    there = valued[[*CELL, "seed"]].drop_duplicates().assign(there=1)
    joined = wanted.merge(there, on=[*CELL, "seed"], how="left")
    return cast("pd.Series[int]", joined["there"].isna().groupby([joined[key] for key in CELL]).sum())


def _unranked(found: pd.DataFrame, impls: pd.Series[str]) -> pd.Series[str]:
    """Return why a cell has no rank, or ""; the first reason that holds. `impls` are the columns' newest."""
    old = found.join(impls.rename("now"), on=COLUMN)["now"] != found["impl"]
    reasons = {
        "has no better or worse": found["better"].isna(),
        "has no value": found["n"] == 0,
        "incomplete: a run failed": found["failures"] != "",
        "incomplete: a seed is missing": found["missing"] > 0,
        "measured by another version of the metric, or on other data": old | (found["impls"] > 1),
        "one seed: nothing to test over": found["n"] < 2,
    }
    said = np.select(list(reasons.values()), list(reasons), default="")
    return pd.Series(said, index=found.index, dtype=object)


def _ranked(found: pd.DataFrame) -> pd.DataFrame:
    """Return `found` with `rank`, within each column, over the cells that may be ranked."""
    rank, sample = np.full(len(found), np.nan), found[["mean", "std", "n"]].to_numpy(float).T
    ranked = found["unranked"].to_numpy() == ""
    for lines in found.groupby(COLUMN).indices.values():
        if len(lines := lines[ranked[lines]]):
            rank[lines] = ranks(Sample(*sample[:, lines]), found["better"].iat[lines[0]])
    return found.assign(rank=rank)
