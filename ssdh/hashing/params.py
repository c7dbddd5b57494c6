"""The names of the heads, whose layers are in `network.py`; apart from them, so that they are checked without torch."""

from typing import Literal

HeadName = Literal["tanh", "linear", "mlp", "mlp_bn", "gelu_bn"]
