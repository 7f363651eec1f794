"""The one object users build: what is learnt, by which algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mkvlasov import _checks
from mkvlasov._typing import Array
from mkvlasov.errors import InvalidInput
from mkvlasov.problem import losses
from mkvlasov.problem.activations import Activation, from_name
from mkvlasov.problem.augmentations import Augmentation, GaussianNoise
from mkvlasov.problem.hidden import HiddenLaw
from mkvlasov.problem.loadings import Gaussian as GaussianLoadings
from mkvlasov.problem.loadings import LoadingLaw
from mkvlasov.problem.losses import Covariance, Loss
from mkvlasov.problem.regularizers import Regularizer, Zero
from mkvlasov.problem.value import Value

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Problem(Value):
    """One-layer nonlinear contrastive learning, trained by online SGD.

    A sample is x = U c + sqrt(eta) (I - U U^T) z with K orthonormal features U and hidden variables c; two augmented
    views of it give pre-activations h^(v) = W^T x^(v) / sqrt(N) and outputs y^(v) = sigma(h^(v)). Each step takes a
    fresh batch of B samples and moves W down the gradient of the batch loss F and of the regularizer phi:

        W <- W - tau / sqrt(N) sum_{b,v} x_b^(v) alpha_b^(v)T - (tau / N) phi'(W),   alpha = dF / dh.

    Parameters
    ----------
    hidden : HiddenLaw
        Law of c; gives K.
    activation : str or Activation
        sigma, by name ("tanh", "erf", "relu", ...) or as an object from `mkvlasov.activations`.
    learning_rate : float or callable
        tau > 0, or a function of the time t = step / N.
    regularizer : Regularizer
        phi; none by default.
    augmentation : Augmentation
        How the two views are made; equal views by default.
    loss : Loss
        F; minus the covariance of the outputs of the two views by default.
    loadings : LoadingLaw
        Law of a = sqrt(N) U_i, standard normal by default.
    outputs : int
        Number of outputs m.
    batch_size : int or inf
        Samples per step B; `numpy.inf` is the gradient flow (no diffusion; not for `simulate_sgd`).
    background_variance : float
        eta >= 0.
    constraint : None or "sphere"
        "sphere" rescales every column of W to norm sqrt(N) after each step.

    Raises
    ------
    InvalidInput
        A `ValueError` whose message names the field, its value and what is allowed.

    Notes
    -----
    docs/theory.md, section 1; Meng and Wang, arXiv 2406.06909.
    """

    hidden: HiddenLaw
    activation: Activation
    learning_rate: float | Callable[[float], float]
    regularizer: Regularizer
    augmentation: Augmentation
    loss: Loss
    loadings: LoadingLaw
    outputs: int
    batch_size: float
    background_variance: float
    constraint: str | None

    def __init__(
        self,
        *,
        hidden: HiddenLaw,
        activation: str | Activation,
        learning_rate: float | Callable[[float], float],
        regularizer: Regularizer | None = None,
        augmentation: Augmentation | None = None,
        loss: Loss | None = None,
        loadings: LoadingLaw | None = None,
        outputs: int = 1,
        batch_size: float = 1,
        background_variance: float = 1.0,
        constraint: str | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "hidden", _piece("hidden", hidden, HiddenLaw))
        put(self, "activation", from_name(activation))
        put(self, "learning_rate", _learning_rate(learning_rate))
        put(self, "regularizer", _piece("regularizer", regularizer, Regularizer, Zero()))
        put(self, "augmentation", _piece("augmentation", augmentation, Augmentation, GaussianNoise(np.zeros(2))))
        put(self, "loss", _piece("loss", loss, Loss, Covariance()))
        put(self, "loadings", _piece("loadings", loadings, LoadingLaw, GaussianLoadings()))
        put(self, "outputs", _checks.integer("outputs", outputs, minimum=1))
        put(self, "batch_size", _batch_size(batch_size))
        put(self, "background_variance", _checks.number("background_variance", background_variance, minimum=0.0))
        put(self, "constraint", _checks.choice("constraint", constraint, [None, "sphere"]))
        self._check_together()

    def _check_together(self) -> None:
        self.loadings.check(self.n_features)
        if isinstance(self.loss, Covariance) and self.loss.centered and self.batch_size < 2:
            raise InvalidInput("batch_size", self.batch_size, "an integer >= 2 when the loss is centered")
        if isinstance(self.loss, losses.Custom):
            self.loss.check(self.outputs)

    @property
    def n_features(self) -> int:
        """Number of features K."""
        return self.hidden.n_features

    @property
    def noise_covariance(self) -> Array:
        """S (2, 2): covariance of the augmentation noises of the two views in the limit."""
        return self.augmentation.noise_covariance(self.background_variance)

    @property
    def rate_is_constant(self) -> bool:
        """Whether the learning rate is a number."""
        return not callable(self.learning_rate)

    def rate(self, t: float) -> float:
        """Return tau at time t; raises `InvalidInput` if a schedule gives anything but a finite number >= 0."""
        return _scheduled(self.learning_rate, t) if callable(self.learning_rate) else self.learning_rate

    def batch_loss(self, y1: Array, y2: Array) -> Array:
        """Return the loss F of batches of outputs, (..., B, m) twice -> (...)."""
        return self.loss.value(y1, y2)

    def alpha(self, h1: Array, h2: Array) -> tuple[Array, Array]:
        """Return dF/dh for the pre-activations of a batch in both views, (..., B, m) each."""
        g1, g2 = self.loss.output_gradient(self.activation.value(h1), self.activation.value(h2))
        return self.activation.derivative(h1) * g1, self.activation.derivative(h2) * g2


def _piece(field: str, value: T | None, protocol: type, default: T | None = None) -> T:
    """Return the value if it can play the part that `protocol` describes."""
    if value is None and default is not None:
        return default
    if value is None or isinstance(value, type) or not isinstance(value, protocol):
        module = protocol.__module__.rsplit(".", 1)[-1]
        raise InvalidInput(field, value, f"an object from mkvlasov.{module}")
    return value


def _learning_rate(value: float | Callable[[float], float]) -> float | Callable[[float], float]:
    if callable(value):
        _scheduled(value, 0.0)
        return value
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return _checks.number("learning_rate", value, minimum=0.0, maximum=math.inf, exclusive=True)
    raise InvalidInput("learning_rate", value, "a finite number > 0, or a function of the time t")


def _scheduled(schedule: Callable[[float], float], t: float) -> float:
    """Return the learning rate that a schedule gives at time t."""
    try:
        value = schedule(t)
    except Exception as error:
        allowed = f"a function of the time t (at t = {t:g} it raised {error!r})"
        raise InvalidInput("learning_rate", schedule, allowed) from error
    return _checks.number(f"learning_rate (at t = {t:g})", value, minimum=0.0)


def _batch_size(value: float) -> float:
    if isinstance(value, (float, np.floating)) and math.isinf(value) and value > 0:
        return math.inf
    try:
        return _checks.integer("batch_size", value, minimum=1)
    except InvalidInput:
        raise InvalidInput("batch_size", value, "an integer >= 1, or infinity") from None
