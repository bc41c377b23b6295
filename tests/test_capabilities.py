"""Optional abilities of models: the table names the metrics that use each, and the committed page is up to date."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import torch

import genbench.metrics
from genbench.capabilities import ABILITIES, HasDecoder, HasEncoder, HasGenerator, HasPosterior, members, page
from genbench.dataset import Space
from genbench.models.gans.gan import GAN
from genbench.models.vaes.vae import VAE
from genbench.models.vaes.vqvae import FlatVQVAE
from genbench.registry import names

ROOT = Path(__file__).parents[1]
METRICS = Path(genbench.metrics.__file__).parent
SHARED = {"decoders": {"ais"}}  # metrics modules that are not metrics: who imports them


def test_the_page_is_what_the_module_generates() -> None:
    advice = "run: python -m genbench.capabilities > docs/capabilities.md"
    assert (ROOT / "docs" / "capabilities.md").read_text() == page(), advice


def test_every_ability_has_docstrings_and_metrics_that_exist() -> None:
    registered = names("metrics")
    for protocol, metrics in ABILITIES:
        assert set(metrics) <= set(registered), protocol
        assert metrics
        assert inspect.getdoc(protocol)
        for name, member in vars(protocol).items():
            assert name.startswith("_") or inspect.getdoc(member), (protocol, name)


@pytest.mark.parametrize("ability", ABILITIES, ids=lambda ability: ability.protocol.__name__)
def test_the_metrics_of_an_ability_are_in_the_modules_that_check_for_it(ability) -> None:
    modules = set()
    for path in METRICS.glob("*.py"):
        imported = {
            alias.name
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.ImportFrom) and node.module == "genbench.capabilities"
            for alias in node.names
        }
        if ability.protocol.__name__ in imported:
            modules |= SHARED.get(path.stem, {path.stem})
    assert {metric.partition(":")[0] for metric in ability.metrics} == modules


def test_members_are_methods_with_their_arguments_and_attributes() -> None:
    assert members(HasGenerator) == ["space", "latent", "generate(z)", "decode(z)"]
    assert members(HasPosterior)[-1] == "surrogate(x, baseline=None)"


def test_a_model_has_an_ability_if_it_has_all_the_members() -> None:
    space = Space((2,))
    assert isinstance(VAE(space), HasDecoder)
    assert not isinstance(GAN(space), HasDecoder)
    assert isinstance(GAN(space), HasGenerator)
    assert not isinstance(FlatVQVAE(space), HasDecoder), "its prior is over codes, not over z of a given dimension"

    class Identity(torch.nn.Module):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x

    assert isinstance(Identity(), HasEncoder)
