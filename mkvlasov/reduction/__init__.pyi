from .derivation import explain as explain
from .fluctuations import Fluctuations as Fluctuations
from .fluctuations import fluctuations as fluctuations
from .symbolic import SymbolicSystem as SymbolicSystem
from .symbolic import symbolic_system as symbolic_system
from .system import ReducedSystem as ReducedSystem
from .system import reduce as reduce
