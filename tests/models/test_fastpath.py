"""Fast implementations agree with the equations, are used where they apply, and can be switched off."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

import genbench.nets.fastpath
from genbench.dataset import Space
from genbench.fastpath import entries, fastpath, implementation, is_enabled
from genbench.models.flows.bijection import Chain
from genbench.models.flows.coupling import AffineCoupling
from genbench.models.flows.flow import Flow
from genbench.models.flows.lu import LULinear
from genbench.models.flows.normalization import ActNorm
from genbench.nets.mlp import mlp
from tests.models.test_flows import FLOWS, IMAGE, Make

VECTOR, PICTURE = Space((2,)), Space((1, 8, 8), 17)
CASES = [(name, VECTOR) for name in FLOWS] + [(name, PICTURE) for name in IMAGE]


def build(name: str, space: Space) -> tuple[Flow, Tensor]:
    """Return a flow with ReLU networks, in float32, after its first batch and far from its start; and x (8, *shape)."""
    torch.manual_seed(0)
    make: Make
    make, options = {**FLOWS, **IMAGE}[name]
    if "activation" in options:
        options = {**options, "activation": "relu"}
    model = make(space, **options)
    shape = (64, *space.shape)
    x = torch.randint(0, space.levels, shape).to(torch.uint8) if space.levels else 0.5 + 1.3 * torch.randn(shape)
    model.log_prob(x)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model, x[:8]


def outputs(model: Flow, x: Tensor) -> dict[str, Tensor]:
    """Return log-likelihoods (B,), gradients of their mean, and samples; drawn from one seed."""
    model = copy.deepcopy(model)
    torch.manual_seed(1)
    log_p = model.log_prob(x)
    gradients = torch.autograd.grad(log_p.mean(), list(model.parameters()))
    with torch.no_grad():
        samples = model.eval().sample(8)
    names = (f"gradient of {name}" for name, _ in model.named_parameters())
    return {"log_prob": log_p.detach(), **dict(zip(names, gradients, strict=True)), "samples": samples.double()}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("name", "space"), CASES, ids=[f"{name}-{len(space.shape)}d" for name, space in CASES])
def test_every_flow_is_the_same_with_the_fast_path_off_and_on(name: str, space: Space, training: bool) -> None:
    """Up to rounding in float32: log-likelihoods, gradients, and samples of one seed."""
    model, x = build(name, space)
    model.train(training)
    fast = outputs(model, x)
    with fastpath(False):
        equations = outputs(model, x)
    for key, expected in equations.items():
        scale = expected.abs().max().item() + 1e-3
        torch.testing.assert_close(
            fast[key], expected, rtol=1e-4, atol=1e-4 * scale, msg=lambda m, key=key: f"{key}: {m}"
        )


def chain() -> tuple[Chain, Tensor]:
    """Return bijections that all have fast implementations, and x (9, 4)."""
    made = Chain([ActNorm((4,)), LULinear((4,)), AffineCoupling(mlp(2, 4, (8,)), 4, 2)])
    x = torch.randn(9, 4)
    made(x)
    return made, x


def graph(y: Tensor) -> set[str]:
    """Return the names of the autograd functions that y depends on."""
    functions, names = [y.grad_fn], set[str]()
    while functions:
        function = functions.pop()
        if function is not None:
            names.add(type(function).__name__)
            functions += [before for before, _ in function.next_functions]
    return names


FUNCTIONS = (
    "ChainFunction",
    "CouplingFunction",
    "LULinearFunction",
    "LUMatrixFunction",
    "ActNormFunction",
    "MLPFunction",
)


def test_the_switch_turns_all_hand_written_gradients_off_and_on() -> None:
    f, x = chain()
    assert any("ChainFunction" in name for name in graph(f(x)[0]))
    with fastpath(False):
        assert not is_enabled()
        names = graph(f(x)[0])
        assert not any(function in name for function in FUNCTIONS for name in names)
        with fastpath(True):
            assert any("ChainFunction" in name for name in graph(f(x)[0]))
        assert not is_enabled()
    assert is_enabled()


def test_fast_implementations_are_not_used_in_transforms() -> None:
    f, x = chain()
    enabled = []
    torch.vmap(lambda v: enabled.append(is_enabled()) or v)(x)
    assert enabled == [False]
    torch.testing.assert_close(torch.vmap(lambda v: f(v.unsqueeze(0))[0][0])(x), f(x)[0])


def test_a_subclass_with_its_own_forward_is_not_replaced() -> None:
    class Doubled(ActNorm):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y, logdet = super().forward(x)
            return 2 * y, logdet + x.shape[1] * torch.tensor(2.0).log()

    class Renamed(ActNorm):
        pass

    assert implementation(ActNorm, "STEPS") is not None
    assert implementation(Renamed, "STEPS") is implementation(ActNorm, "STEPS")
    assert implementation(Doubled, "STEPS") is None
    x = torch.randn(9, 4)
    f, g = Chain([ActNorm((4,)), ActNorm((4,))]), Chain([Doubled((4,)), ActNorm((4,))])
    f(x), g(x)
    torch.testing.assert_close(g(x)[0], f(x)[0], rtol=1e-3, atol=1e-3)  # the second layer undoes the factor
    torch.testing.assert_close(g.bijections[0](x)[0], 2 * f.bijections[0](x)[0])


def test_a_module_without_a_fast_path_has_no_entries_and_one_that_fails_to_import_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("genbench.nets.resnet", "genbench.train", "builtins", "mine.models"):
        assert entries(name) == {}
    (tmp_path / "broken.py").write_text("import nosuchmodule\n")
    monkeypatch.setattr(genbench.nets.fastpath, "__path__", [str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="nosuchmodule"):
        entries("genbench.nets.broken")
