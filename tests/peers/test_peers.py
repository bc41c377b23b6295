"""Flows of other libraries as genbench models: they pass the same tests, and suites find them by import path."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from genbench.errors import UsageError
from genbench.suite import read_suite, suite_path
from tests.models import test_flows as flows

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
    "check",
    [
        flows.test_log_determinant_agrees_with_the_jacobian,
        flows.test_decoding_inverts_encoding,
        flows.test_likelihood_does_not_depend_on_the_batch,
        flows.test_every_parameter_is_trained,
    ],
)
def test_properties_of_flows_hold(check, row) -> None:
    check(row, flows.VECTOR)


@every_peer
def test_density_integrates_to_one(row) -> None:
    flows.test_density_integrates_to_one(row)


@every_peer
@pytest.mark.parametrize("levels", [None, 17])
def test_samples_are_points_of_the_space(row, levels) -> None:
    flows.test_samples_are_points_of_the_space(row, levels)


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
