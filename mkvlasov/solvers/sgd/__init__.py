"""Direct simulation of online SGD."""
