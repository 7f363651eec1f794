"""The closed system of the order parameters: derivation, symbolic form, fluctuations.

Names are loaded when they are first used: sympy comes in with the symbolic form alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
del lazy_loader
