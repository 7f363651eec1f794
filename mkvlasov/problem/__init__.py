"""What is learnt: frozen data without time and without numerics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "activations",
        "augmentations",
        "contrastive",
        "hidden",
        "initial",
        "loadings",
        "losses",
        "regularizers",
        "schedules",
        "value",
    ],
)
del lazy_loader
