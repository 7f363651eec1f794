"""The McKean-Vlasov PDE: methods that share a task and the shape of the result."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["methods"])
del lazy_loader
