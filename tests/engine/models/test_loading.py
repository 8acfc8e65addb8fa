"""A folder becomes a model with progress on the way, or one error that names what is wrong."""

from pathlib import Path

import pytest
import torch

from baton.engine.checkpoint.reader import CheckpointError
from baton.engine.models import load_model
from baton.engine.models.config import ConfigError
from baton.engine.models.loading import WeightForm, form_on, load, load_experts
from baton.kvtransfer.layout import KvFormat
from support.checkpoint_files import edit_json, read_tensors, write_tensors
from support.checkpoints import make_deepseek_v3, make_qwen3_moe
from support.driver import Driver

PROMPT = [9, 200, 31, 77, 5, 123]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_deepseek_v3(tmp_path / "model", mtp=True)


def test_progress_rises_to_all_bytes_but_those_of_the_mtp_layer(folder: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    load_model(folder, on_progress=lambda *step: seen.append(step))

    own = sum(t.nbytes for name, t in read_tensors(folder).items() if not name.startswith("model.layers.3."))
    done = [done for _, done, _ in seen]
    assert {(stage, total) for stage, _, total in seen} == {("weights", own)}
    assert done == sorted(done)
    assert done[-1] == own


def test_a_missing_tensor_is_named(folder: Path) -> None:
    tensors = read_tensors(folder)
    del tensors["model.layers.1.mlp.experts.5.up_proj.weight"]
    write_tensors(folder, tensors)

    with pytest.raises(
        CheckpointError, match=r"model\.layers\.1\.mlp\.experts\.5\.up_proj\.weight is missing"
    ):
        load_model(folder)


def test_a_wrong_shape_is_named(folder: Path) -> None:
    edit_json(folder / "config.json", kv_lora_rank=40)

    with pytest.raises(
        CheckpointError, match=r"kv_a_proj_with_mqa\.weight has shape \[40, 64\], expected \[48, 64\]"
    ):
        load_model(folder)


def test_an_unknown_model_is_refused_before_its_weights_are_opened(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')

    with pytest.raises(ConfigError, match=r"model_type 'llama' is not known"):
        load_model(tmp_path)


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"dtype 'int8' is not supported; known are float32, bfloat16"):
        load_model(folder, dtype="int8")


def test_pools_and_layouts_say_the_same_of_a_block(folder: Path, tmp_path: Path) -> None:
    models = {KvFormat.MLA: load_model(folder), KvFormat.GQA: load_model(make_qwen3_moe(tmp_path / "qwen"))}
    shapes = {KvFormat.MLA: (5, 3, 16, 40), KvFormat.GQA: (5, 3, 2, 2, 16, 16)}

    for kind, model in models.items():
        pool, layout = model.new_kv_pool(5, 16), model.kv_layout(16)

        assert (layout.format, layout.dtype, layout.block_tokens) == (kind, "float32", 16)
        assert pool.shape == shapes[kind]
        assert pool.is_contiguous()
        assert pool[0].nbytes == layout.block_bytes


def test_the_digest_follows_the_weights_and_not_their_files(tmp_path: Path) -> None:
    folders = {
        "same": make_deepseek_v3(tmp_path / "a", seed=1),
        "sharded": make_deepseek_v3(tmp_path / "b", seed=1, shards=3),
        "other weights": make_deepseek_v3(tmp_path / "c", seed=2),
        "other rope": make_deepseek_v3(tmp_path / "d", seed=1, rope_theta=20000.0),
    }

    digests = {name: load_model(folder).kv_layout(8).model_digest for name, folder in folders.items()}

    assert digests["same"] == digests["sharded"]
    assert len(set(digests.values())) == 3


def test_the_cache_has_the_compute_dtype(folder: Path) -> None:
    model = load_model(folder, dtype=torch.bfloat16)

    assert model.new_kv_pool(2, 8).dtype is torch.bfloat16
    assert model.kv_layout(8).dtype == "bfloat16"


@pytest.mark.parametrize("make", [make_deepseek_v3, make_qwen3_moe])
def test_bfloat16_follows_float32_within_its_precision(tmp_path: Path, make: type) -> None:
    folder = make(tmp_path / "model")
    logits = []
    for dtype in ("float32", "bfloat16"):
        driver = Driver(load_model(folder, dtype=dtype))
        sequence = driver.sequence(PROMPT)
        driver.prefill([(sequence, 4)])
        driver.prefill([(sequence, 2)])
        logits.append(driver.decode([sequence])[0])

    assert torch.nn.functional.cosine_similarity(*logits, dim=0) > 0.995


def test_tied_embeddings_are_the_head(tmp_path: Path) -> None:
    folder = make_qwen3_moe(tmp_path / "model")
    tensors = read_tensors(folder)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    write_tensors(folder, tensors)
    untied = Driver(load_model(folder))
    del tensors["lm_head.weight"]
    write_tensors(folder, tensors)
    edit_json(folder / "config.json", tie_word_embeddings=True)
    tied = Driver(load_model(folder))

    logits = [driver.prefill([(driver.sequence(PROMPT), len(PROMPT))]) for driver in (untied, tied)]

    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("paged", "keep_fp8", "form"),
    [
        (None, None, WeightForm(is_paged=False, keeps_fp8=False)),
        (True, None, WeightForm(is_paged=True, keeps_fp8=False)),
        (None, True, WeightForm(is_paged=True, keeps_fp8=True)),
        (False, True, WeightForm(is_paged=True, keeps_fp8=True)),
    ],
)
def test_a_cpu_takes_the_form_of_a_gpu_only_when_told_to(
    paged: bool | None, keep_fp8: bool | None, form: WeightForm
) -> None:
    assert form_on(torch.device("cpu"), paged=paged, keep_fp8=keep_fp8) == form


def test_experts_read_alone_are_those_of_the_model(folder: Path) -> None:
    model = load(folder, device="cpu", dtype=None, on_progress=None)

    alone = load_experts(folder, device="cpu", dtype=None, experts=range(8), keep_fp8=None)

    for layer, experts in zip(model.moe_layers, alone, strict=True):
        assert layer.experts.grouped == experts.grouped
        assert torch.equal(layer.experts.gate_up, experts.gate_up)
        assert torch.equal(layer.experts.down, experts.down)


def test_only_owned_experts_are_read(folder: Path) -> None:
    tensors = {name: t for name, t in read_tensors(folder).items() if ".experts.0." not in name}
    write_tensors(folder, tensors)

    model = load(folder, device="cpu", dtype=None, on_progress=None, experts=range(4, 8))

    assert model.config.moe.num_experts == 8
