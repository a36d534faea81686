"""LPIPS of the paper's tables, by its own library and with a backbone that the user supplies.

We ship neither AlexNet's weights nor another metric under this name: without library or weights
there is a clear error and no figure.

Source: Zhang, Isola, Efros, Shechtman, Wang, The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric (2018), by the package ``lpips``, version 0.1 of its linear layers.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from jaxtyping import Float

from hertzmap.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

HELP = (
    "LPIPS needs the packages lpips and torchvision (pip install lpips torchvision) and the "
    "ImageNet weights of torchvision's AlexNet as .safetensors or .pth"
)
"""What to do where something is missing."""
LAYERS = {0: "slice1", 3: "slice2", 6: "slice3", 8: "slice4", 10: "slice5"}
"""AlexNet's convolutions, and where the library keeps each."""


@final
class Lpips:
    """LPIPS with AlexNet, on grey pictures repeated to three channels."""

    def __init__(self, backbone: Path) -> None:
        """Load library and weights.

        Args:
            backbone: state of torchvision's AlexNet: ``features.0.weight`` and so on.

        Raises:
            ConfigError: if the library is missing or does not fit torch.
            DataError: if the weights are missing or those of another network.
        """
        library = _library()
        self._network = library.LPIPS(net="alex", pnet_rand=True, verbose=False)
        state = _state(backbone)
        try:
            wanted = {
                f"{part}.{number}.{kind}": state[f"features.{number}.{kind}"]
                for number, part in LAYERS.items()
                for kind in ("weight", "bias")
            }
            self._network.net.load_state_dict(wanted)
        except (KeyError, RuntimeError) as error:
            msg = f"{backbone} does not hold AlexNet's layers ({error}); {HELP}"
            raise DataError(msg) from error

    def __call__(
        self, truth: Float[np.ndarray, "rows cols"], estimate: Float[np.ndarray, "rows cols"]
    ) -> float:
        """Distance of two grey pictures on [0, 1]; 0 for equal ones."""
        import torch

        both = [
            torch.from_numpy(np.clip(one, 0.0, 1.0)).float().mul(2.0).sub(1.0).expand(1, 3, -1, -1)
            for one in (truth, estimate)
        ]
        with torch.no_grad():
            return float(self._network(*both))


def _library() -> Any:  # noqa: ANN401 - it ships no types
    try:
        _load_torchvision()
        return importlib.import_module("lpips")
    except (ImportError, RuntimeError, OSError) as error:
        msg = f"{HELP}; {type(error).__name__}: {error}"
        raise ConfigError(msg) from error


def _load_torchvision() -> None:
    """Import torchvision, also a build for another torch: AlexNet needs none of its own operators.

    Such a build stops at operators that its library should have registered; they are declared here
    and have no code behind them.
    """
    import torch

    for _ in range(5):
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:
            words = str(error).split()
            missing = next((word for word in words if word.startswith("torchvision::")), None)
            if missing is None:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(
                f"{missing.split('::')[1]}(Tensor dets, Tensor scores, float iou_threshold) "
                "-> Tensor"
            )
            _KEPT.append(library)
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]


_KEPT: list[Any] = []


def _state(path: Path) -> "dict[str, torch.Tensor]":
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        msg = f"there is no file {path}; {HELP}"
        raise DataError(msg)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        msg = f"{path} holds no readable weights ({error}); {HELP}"
        raise DataError(msg) from error
