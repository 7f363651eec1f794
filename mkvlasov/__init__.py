"""Training dynamics of nonlinear contrastive learning in the high-dimensional limit.

Public names are loaded when they are first used, so that importing the package costs little more than numpy.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
del lazy_loader
