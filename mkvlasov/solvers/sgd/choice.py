"""Which of the methods of `simulate_sgd` applies, and on which device."""

from __future__ import annotations

from mkvlasov import _checks
from mkvlasov.errors import InvalidInput, UnsupportedError
from mkvlasov.problem.contrastive import Problem
from mkvlasov.solvers.sgd.penalties import builtin_penalty

_METHODS = ("chain", "reduced", "literal")
"""The cheapest first."""


def method_here(problem: Problem, method: str, weights_used: list[str], real: bool) -> str:
    """Return the method that is used, given the options that need weights; raise `UnsupportedError` if it cannot be."""
    # Compiled code is loaded when it may run.
    from mkvlasov.solvers.sgd.chain import chain_applies

    _checks.choice("method", method, ["auto", *_METHODS])
    given = "real samples have no Gaussian background" if real else ""
    noise = "" if problem.augmentation.is_gaussian else f"{problem.augmentation!r} is not additive Gaussian noise"
    needless = f"it has no weights for {weights_used[0]}" if weights_used else ""
    reasons = {
        "chain": given or chain_applies(problem) or needless,
        "reduced": given or noise,
        "literal": "it has no single precision" if "dtype='float32'" in weights_used else "",
    }
    if method != "auto":
        if reasons[method]:
            raise UnsupportedError(f"method: {method!r} does not apply: {reasons[method]}; use method='auto'")
        return method
    for name in _METHODS:
        if not reasons[name]:
            return name
    raise UnsupportedError(f"dtype: single precision needs method='reduced', and {reasons['reduced']}; use float64")


def method_on_device(problem: Problem, method: str, regularizer_step: str, real: bool) -> str:
    """Return the method, "literal"; raise `UnsupportedError` for what the code for devices does not cover."""
    _checks.choice("method", method, ["auto", *_METHODS])
    reasons = {
        f"method={method!r}": method in ("chain", "reduced"),
        "data": real,
        f"{problem.augmentation!r}, which is not additive Gaussian noise,": not problem.augmentation.is_gaussian,
        f"{problem.regularizer!r}, which PyTorch cannot call,": builtin_penalty(problem.regularizer) is None,
        "regularizer_step='proximal'": regularizer_step == "proximal",
    }
    for what, present in reasons.items():
        if present:
            raise UnsupportedError(f"device: {what} is not covered on a device; leave device out")
    return "literal"


def check_device(device: str) -> None:
    """Raise an error if PyTorch is missing or has no such device."""
    if not isinstance(device, str):
        raise InvalidInput("device", device, "the name of a device, such as 'cuda'")
    try:
        from mkvlasov.solvers.sgd.device import open_device
    except ModuleNotFoundError as error:
        raise UnsupportedError(f'device: {error}; install PyTorch with pip install "mkvlasov[gpu]"') from error
    open_device(device)
