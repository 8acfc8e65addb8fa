"""Where an optional package is installed, operations run by it, equal their references and keep its rules."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from baton.bench.gpu.case import Case, Inputs
from baton.bench.gpu.cases import attention, moe
from baton.bench.gpu.error import relative_error
from baton.kernels.by_device import ADAPTERS, fastest, launcher, reference
from support.fake_kernel_packages import DeepGemm, FlashInfer, FlashMla

TOLERANCE = 6e-3


def make() -> Inputs:
    return Inputs(torch.device("cpu"), seed=1)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The stand-ins, where `import` finds them."""
    found: dict[str, Any] = {"flash_mla": FlashMla(), "deep_gemm": DeepGemm(), "flashinfer": FlashInfer()}
    for name, package in found.items():
        monkeypatch.setitem(sys.modules, name, package)
    fastest.cache_clear()
    yield found
    fastest.cache_clear()


def error(case: Case) -> float:
    """Of the adapter against the reference."""
    arguments = [each.clone() if isinstance(each, torch.Tensor) else each for each in case.arguments]
    results = [
        case.results(form(case.operation)(*arguments, **case.keywords), tuple(arguments))
        for form in (fastest, reference)
    ]
    return max(map(relative_error, *results))


@pytest.mark.parametrize("lengths", [[5, 0, 64, 130]])
def test_flash_mla_decodes_and_dead_rows_are_zero(packages: dict[str, Any], lengths: list[int]) -> None:
    case = attention.mla_decode(make(), lengths, 3, heads=16, rank=512, rope=64, layers=2)

    assert error(case) <= TOLERANCE
    assert packages["flash_mla"].calls == 1
    assert not fastest(case.operation)(*case.arguments, **case.keywords)[1].any()


@pytest.mark.parametrize(("tokens", "depth", "width"), [(1, 128, 256), (7, 384, 128)])
def test_deep_gemm_multiplies_dense_rows(
    packages: dict[str, Any], tokens: int, depth: int, width: int
) -> None:
    assert error(moe.linear(make(), tokens, depth, width)) <= TOLERANCE
    assert packages["deep_gemm"].calls == ["dense"]


def test_deep_gemm_multiplies_grouped_rows(packages: dict[str, Any]) -> None:
    assert error(moe.contiguous_gemm(make(), [2, 0, 0, -1], 128, 256, 128, fp8=True)) <= TOLERANCE
    assert error(moe.contiguous_gemm(make(), [1, 0], 256, 128, 128, fp8=True)) <= TOLERANCE
    assert error(moe.masked_gemm(make(), [3, 0, 7], 9, 256, 128, fp8=True)) <= TOLERANCE
    assert packages["deep_gemm"].calls == ["contiguous", "contiguous", "masked"]


@pytest.mark.parametrize("causal", [False, True])
def test_flash_infer_attends(packages: dict[str, Any], causal: bool) -> None:
    keys = 9 if causal else 20
    case = attention.dense(make(), 2, 3, 9, keys, dim=64, v_dim=64, causal=causal)

    assert error(case) <= TOLERANCE
    assert packages["flashinfer"].calls == 1


REFUSED = {
    "latents of another width": lambda: attention.mla_decode(
        make(), [5], 1, heads=4, rank=32, rope=16, block_tokens=64
    ),
    "blocks of another size": lambda: attention.mla_decode(
        make(), [5], 1, heads=4, rank=512, rope=64, block_tokens=16
    ),
    "partial blocks of a weight": lambda: moe.linear(make(), 3, 200, 128),
    "partial blocks of experts": lambda: moe.masked_gemm(make(), [2, 1], 3, 128, 100, fp8=True),
    "tiles that are too small": lambda: moe.contiguous_gemm(make(), [1, 0], 64, 128, 128, fp8=True),
    "values narrower than keys": lambda: attention.dense(make(), 1, 1, 5, 5, dim=64, v_dim=32, causal=True),
    "heads of another width": lambda: attention.dense(make(), 1, 1, 5, 5, dim=80, v_dim=80, causal=True),
}


@pytest.mark.parametrize("build", REFUSED.values(), ids=REFUSED)
def test_what_a_package_does_not_take_goes_to_triton(packages: dict[str, Any], build: Any) -> None:
    case = build()

    assert error(case) <= TOLERANCE
    assert not any(bool(package.calls) for package in packages.values())


@pytest.mark.parametrize("name", ADAPTERS)
def test_without_the_package_the_triton_form_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, _ = ADAPTERS[name]
    monkeypatch.setitem(sys.modules, package, None)  # as import finds a package that is not installed
    fastest.cache_clear()
    operations = [attention.attend, attention.mla_paged_decode, moe.linear_fp8]
    operations += [moe.grouped_gemm_fp8, moe.grouped_gemm_fp8_masked]
    [operation] = [each for each in operations if each.__name__ == name]

    form = fastest(reference(operation))

    assert form is launcher(reference(operation))
    fastest.cache_clear()
