"""Weight files: read without running code, and the normalisation that their metadata may name."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.files import is_placeholder

if TYPE_CHECKING:
    from torch import Tensor


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Triple = tuple[float, float, float]
OPTION = "backbone.weights_file"


def read_weights(name: str, option: str = OPTION) -> "dict[str, Tensor]":
    """Read a state dict from `.safetensors` or `.pth`/`.pt` (tensors, no pickled code); DataError if it is none.

    option: what errors call the file by: the parameter or the command line's option that named it.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(name)
    _check_file(path, option)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"{option} {path} is not a whole state dict: {_first_line(error)}") from None
    except Exception as error:
        reason = type(error).__name__
        raise DataError(f"{option} {path} holds more than tensors ({reason}): save a state dict") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"{option} {path} is not a state dict: save model.state_dict()")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _check_file(path: Path, option: str = OPTION) -> None:
    hint = "name a .safetensors or .pth file" + (f" (params.yaml: {OPTION})" if option == OPTION else "")
    if not path.is_file():
        raise DataError(f"{option} {path} does not exist: {hint}")
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise ParameterError(f"{option} {path} has the unknown suffix {path.suffix!r}: {hint}")
    if is_placeholder(path):
        context = "images.weights is 'file', but " if option == OPTION else ""
        raise ParameterError(f"{context}{option} {path} is the empty placeholder: {hint}")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def only_convolutions(state: "dict[str, Tensor]") -> bool:
    """Whether a state dict of VGG or AlexNet lacks the classifier."""
    return all(key.startswith("features.") for key in state)


def file_normalisation(name: str) -> tuple[Triple, Triple] | None:
    """Mean and std of a safetensors file's metadata: keys `mean` and `std`, or `preprocessing: … mean a b c, std d`.

    None where it has none. Raises DataError where the file is missing or cut short.
    """
    path = Path(name)
    _check_file(path)
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{OPTION} {path} is not a whole state dict: {_first_line(error)}") from None
    text = metadata.get("preprocessing", "") + "".join(f" {key} {metadata.get(key, '')}," for key in ("mean", "std"))
    numbers = r"\W*((?:\d+(?:\.\d+)?(?:/\d+)?[\s,]*)+)"
    matches = [re.search(key + numbers, text) for key in ("mean", "std")]
    if not matches[0] or not matches[1]:
        return None
    mean, std = ([_fraction(part) for part in re.split(r"[\s,]+", match[1].strip(" ,"))] for match in matches if match)
    return triple(mean), triple(std)


def _fraction(text: str) -> float:
    over, _, under = text.partition("/")
    return float(over) / float(under or 1)


def triple(values: Sequence[float]) -> Triple:
    """Three channel values; one value stands for all three. Raises DataError for any other number of values."""
    numbers = [float(value) for value in values]
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise DataError(f"normalisation must have 1 or 3 values, got {numbers}: set images.mean and images.std")
    return numbers[0], numbers[1], numbers[2]
