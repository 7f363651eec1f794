"""Methods for `solve_pde`: small frozen objects, one class each."""

from mkvlasov.solvers.pde.collocation import Collocation as Collocation
from mkvlasov.solvers.pde.elements.method import SpectralElements as SpectralElements
from mkvlasov.solvers.pde.plane.method import PlaneSplitting as PlaneSplitting
from mkvlasov.solvers.pde.volumes.finite_volumes import FiniteVolumes as FiniteVolumes
from mkvlasov.solvers.pde.volumes.finite_volumes import UniformCentral as UniformCentral
