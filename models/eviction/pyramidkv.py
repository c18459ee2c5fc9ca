"""SnapKV's scores with more room in the first layers (PyramidKV; Cai et al., 2024, 2406.02069)."""

from dataclasses import dataclass

from models.errors import UserError
from models.eviction.snapkv import Policy as SnapKV
from models.extension import option


@dataclass
class Policy(SnapKV):
    """room_l falls linearly over the layers, its mean that of SnapKV.

    Of the room ``a`` beside the window, the last layer gets ``a / steep`` and the first
    ``2a - a / steep``; where the prompt is shorter than that, the first gets all of it and the last
    what keeps the mean. Rounded so that the sum over layers stays exactly that of an even share.

    Between the lines: the paper's β is ``steep``, 20. A room within the window is shared evenly,
    and so is a single layer's.

    Cost: SnapKV's.
    """

    steep: float = option(20.0, "pyramidkv: mean room over the last layer's (20)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.steep < float("inf"):
            raise UserError(f"STEEP={self.steep} must be a number, at least 1")

    def room(self, prompt: int, layer: int, n_layers: int) -> int | None:
        """Rows that layer ``layer`` of ``n_layers`` may hold."""
        even = super().room(prompt, layer, n_layers)
        if even is None or n_layers == 1:
            return even
        beside, most = even - self.observe, prompt - self.observe
        if not 0 < beside < most:
            return even
        first = min(2 * beside - beside / self.steep, most)
        mirrored = n_layers - 1 - layer
        if layer > mirrored:
            return 2 * even - self._of(first, beside, mirrored, n_layers)
        return self._of(first, beside, layer, n_layers)

    def _of(self, first: float, beside: int, layer: int, n_layers: int) -> int:
        """The room of a layer in the first half, the middle one included."""
        return self.observe + round(first - 2 * (first - beside) * layer / (n_layers - 1))
