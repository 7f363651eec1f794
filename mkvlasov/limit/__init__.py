"""The limit of infinite dimension: drift and diffusion as functions of the order parameters."""

from mkvlasov.limit.closure import closure_obstacles
from mkvlasov.limit.coefficients import Coefficients, LimitCoefficients
from mkvlasov.limit.moments import moment_rates, sphere_rate

__all__ = ["Coefficients", "LimitCoefficients", "closure_obstacles", "moment_rates", "sphere_rate"]
