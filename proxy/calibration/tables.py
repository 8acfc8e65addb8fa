"""A calibration as text: the fitted times, how far off they are, and the check."""

from collections import defaultdict
from collections.abc import Sequence
from math import log2
from statistics import median

from .check import Predicted
from .fit import LinearFit, Sample
from .model_fit import Calibration


def summary(calibration: Calibration) -> list[str]:
    """Return one line for each fit."""
    model = calibration.model
    prefill, decode, link = model.prefill, model.decode, model.link
    by_length = f"{_us(prefill.token_s)} a token + {_ns(prefill.pair_s)} a pair of tokens"
    by_batch = (
        f"{_us(decode.row_s)} a row + {_ms(decode.experts_s)} for all experts "
        f"+ {_ns(decode.context_token_s)} a token of context"
    )
    lines = [
        f"prefill step: {_ms(prefill.step_base_s)} + {by_length} ({_off(calibration.prefill)})",
        f"decode step: {_ms(decode.step_base_s)} + {by_batch} ({_off(calibration.decode)})",
    ]
    if calibration.transfer is not None:
        lines.append(
            f"transfer: {_ms(link.base_s)} + bytes at {link.bytes_per_s / 1e9:.3g} GB/s, "
            f"{link.kv_bytes_per_token:.0f} bytes a token ({_off(calibration.transfer)})"
        )
    else:
        lines.append("transfer: not seen, kept as it was")
    if calibration.phases_told:
        lines.append(f"beside the engine: {_ms(model.leg_s)} a leg")
    else:
        lines.append("the workers tell no phases: prefill is the time to the first token")
    return lines


def verdict(predicted: Sequence[Predicted]) -> list[str]:
    """Return one line for each measure of the check."""
    return [
        f"check, {each.name}: "
        + ", ".join(
            f"{name} {_ms(real)} measured, {_ms(guess)} simulated ({guess / real - 1:+.0%})"
            for name, real, guess in (
                ("p50", each.measured.p50, each.simulated.p50),
                ("p90", each.measured.p90, each.simulated.p90),
            )
        )
        + f"; single requests {each.request_error:.0%} off in the median"
        for each in predicted
    ]


def residuals(calibration: Calibration) -> str:
    """Return what was measured and fitted: prompts and transfers by size, every batch."""
    rows = [("what", "measured ms", "fitted ms", "off")]
    rows += _by_size(calibration.prefill, 1, "prefill of {:.0f} to {:.0f} tokens", 1.0)
    rows += [
        _line(calibration.decode, [sample], f"decode step, {batch:.0f} rows, {context:.0f} tokens of context")
        for sample in calibration.decode.samples
        for _, batch, context, _ in [sample.features]
    ]
    if calibration.transfer is not None:
        rows += _by_size(calibration.transfer, 1, "transfer of {:.0f} to {:.0f} KiB", 1024.0)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{what.ljust(widths[0])}  {real.rjust(widths[1])}  {guess.rjust(widths[2])}  {off.rjust(widths[3])}"
        for what, real, guess, off in rows
    )


def _by_size(fit: LinearFit, feature: int, name: str, unit: float) -> list[tuple[str, str, str, str]]:
    """Return a line for each doubling of a feature, with the medians of its samples."""
    doublings: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in fit.samples:
        doublings[int(log2(max(sample.features[feature], 1.0)))].append(sample)
    lines = []
    for _, samples in sorted(doublings.items()):
        sizes = [sample.features[feature] / unit for sample in samples]
        lines.append(_line(fit, samples, name.format(min(sizes), max(sizes))))
    return lines


def _line(fit: LinearFit, samples: Sequence[Sample], name: str) -> tuple[str, str, str, str]:
    real = median(sample.seconds for sample in samples)
    guess = median(fit.seconds(sample) for sample in samples)
    off = median(fit.seconds(sample) / sample.seconds - 1.0 for sample in samples)
    return name, f"{real * 1000:.2f}", f"{guess * 1000:.2f}", f"{off:+.0%}"


def _off(fit: LinearFit) -> str:
    errors = [abs(error) for error in fit.errors()]
    return f"off by {median(errors):.0%} in the median"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


def _ns(seconds: float) -> str:
    return f"{seconds * 1e9:.3g} ns"
