"""Flows of other libraries as genbench models: they pass the same tests, and suites find them by import path."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from genbench.errors import UsageError
from genbench.suite import read_suite, suite_path
from tests import test_flows as truths

zuko_flows = pytest.importorskip("peers.zuko_flows", exc_type=ModuleNotFoundError)
normflows_flows = pytest.importorskip("peers.normflows_flows", exc_type=ModuleNotFoundError)

PEERS = {
    "zuko NICE": (zuko_flows.NICE, {"transforms": 3, "hidden": (16,)}),
    "zuko NICE additive": (zuko_flows.NICE, {"transforms": 3, "hidden": (16,), "additive": True}),
    "zuko MAF": (zuko_flows.MAF, {"transforms": 2, "hidden": (16,)}),
    "zuko NSF": (zuko_flows.NSF, {"transforms": 2, "hidden": (16,), "bins": 4}),
    "zuko NSF of couplings": (zuko_flows.NSF, {"transforms": 2, "hidden": (16,), "bins": 4, "passes": 2}),
    "normflows RealNVP": (normflows_flows.RealNVP, {"couplings": 2, "hidden": (16,)}),
    "normflows Glow": (normflows_flows.Glow, {"depth": 2, "hidden": (16,)}),
    "normflows NSF": (normflows_flows.NSF, {"couplings": 2, "hidden": (16,), "bins": 4}),
}
every_peer = pytest.mark.parametrize("row", PEERS.items(), ids=PEERS)


@every_peer
@pytest.mark.parametrize(
    "truth",
    [
        truths.test_log_determinant_is_that_of_the_jacobian,
        truths.test_decoding_undoes_encoding,
        truths.test_likelihood_depends_on_the_point_alone,
        truths.test_every_parameter_is_trained,
    ],
)
def test_properties_of_flows_hold(truth, row) -> None:
    truth(row, truths.VECTOR)


@every_peer
def test_density_of_the_plane_has_mass_one(row) -> None:
    truths.test_density_of_the_plane_has_mass_one(row)


@every_peer
@pytest.mark.parametrize("levels", [None, 17])
def test_samples_lie_in_the_space(row, levels) -> None:
    truths.test_samples_lie_in_the_space(row, levels)


def test_suite_refers_to_peers_by_import_path() -> None:
    assert {run.model.partition(":")[0] for run in read_suite(suite_path("peers")).runs(only="* (*)")} == {
        "peers.zuko_flows",
        "peers.normflows_flows",
    }


def test_a_missing_library_is_reported_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)  # makes the import fail
    monkeypatch.delitem(sys.modules, "peers.zuko_flows")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch", 'zuko>=1.4; extra == "peers"'])
    with pytest.raises(UsageError, match=r"NICE' needs the package 'zuko': pip install 'genbench\[peers\]'$"):
        read_suite(suite_path("peers")).runs(only="* (zuko)")
