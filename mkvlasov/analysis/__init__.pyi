from .fixed_points import FixedPoint as FixedPoint
from .fixed_points import FixedPoints as FixedPoints
from .fixed_points import fixed_points as fixed_points
from .learnability import CriticalValues as CriticalValues
from .learnability import Learnability as Learnability
from .learnability import learnability as learnability
from .stability import Stability as Stability
from .stability import classify as classify
