"""Checks of `kv_transfer_params` before they reach the engine: a hand-over must be complete. No I/O."""

from ...kvtransfer.params import KvTransferParams, single_group_block_ids
from .errors import bad_field

_PULL_NEEDS = ("remote_engine_id", "remote_request_id", "remote_host", "remote_port", "remote_block_ids")


def check_handover(params: KvTransferParams | None, *, prompts: int) -> KvTransferParams | None:
    """Return the params if they ask for anything. Raises `ApiError` naming `kv_transfer_params`."""
    if params is None or not (params.do_remote_decode or params.do_remote_prefill):
        return None
    if params.do_remote_decode and params.do_remote_prefill:
        raise _bad("do_remote_decode and do_remote_prefill exclude each other")
    if prompts != 1:
        raise _bad(f"a hand-over serves one prompt, got {prompts}")
    if params.do_remote_prefill:
        _check_pull(params)
    return params


def _check_pull(params: KvTransferParams) -> None:
    values = (
        params.remote_engine_id,
        params.remote_request_id,
        params.remote_host,
        params.remote_port,
        params.remote_block_ids,
    )
    missing = [name for name, value in zip(_PULL_NEEDS, values, strict=True) if value is None]
    if missing:
        raise _bad(f"do_remote_prefill needs {', '.join(missing)}")
    if params.transfer_mode != "pull":
        raise _bad(f"transfer_mode {params.transfer_mode!r} is not supported, only 'pull'")
    try:
        single_group_block_ids(params)
    except ValueError as error:
        raise _bad(str(error)) from error


def _bad(message: str) -> Exception:
    return bad_field("kv_transfer_params", message)
