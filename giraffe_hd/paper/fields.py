"""Neural feature fields: a point and a code in, density and features out (GIRAFFE Sec. 3.1; GIRAFFE HD Sec. 3.1).

The head that makes features is affine in the hidden layer that is composited along a ray, so it is applied once a ray:
sum_s w_s (W h_s + b) = W (sum_s w_s h_s) + (sum_s w_s) b.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from giraffe_hd.paper.config import FieldConfig
from training.nn.ops.field import Encoding, Mlp, encode


def positional_encoding(p: Float[Tensor, "*n 3"], n_octaves: int) -> Float[Tensor, "*n encoded"]:
    """Return sin(2^i pi p) and cos(2^i pi p) for i < n_octaves, octave by octave  (NeRF Eq. 4): 6 n_octaves values."""
    return encode(p, Encoding(n_octaves))


class Condition(NamedTuple):
    """What a field adds to its layers for each code: computed once a code, not once a point."""

    entry: Float[Tensor, "n width"]
    skip: Float[Tensor, "n width"] | None
    head: Float[Tensor, "n width"]

    def at(self, index: Tensor) -> "Condition":
        """Return the rows that points at `index` need."""
        return Condition(self.entry[index], None if self.skip is None else self.skip[index], self.head[index])

    def along(self) -> "Condition":
        """Return the rows with an axis of points behind `n`."""
        return Condition(self.entry[:, None], None if self.skip is None else self.skip[:, None], self.head[:, None])


class FeatureField(nn.Module):
    """h_theta: (x, d, z_s, z_a) -> (sigma, f)  (GIRAFFE Sec. 3.1)."""

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.config = config
        width, encoded, encoded_view = config.width, 6 * config.n_octaves, 6 * config.n_octaves_view
        self.fc_in = nn.Linear(encoded, width)
        self.fc_z = nn.Linear(config.z_dim, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(config.n_layers - 1))
        self.fc_z_skip = nn.Linear(config.z_dim, width) if config.skip else None
        self.fc_p_skip = nn.Linear(encoded, width) if config.skip else None
        self.sigma_out = nn.Linear(width, 1)
        self.feat_view = nn.Linear(width, width)
        self.fc_z_view = nn.Linear(config.z_dim, width)
        self.fc_view = nn.Linear(encoded_view, width)  # in every checkpoint, read with view directions only
        self.feat_out = nn.Linear(width, config.feat_dim)

    def condition(self, z_s: Float[Tensor, "n z"], z_a: Float[Tensor, "n z"]) -> Condition:
        """Return what the codes add to the layers."""
        skip = None if self.fc_z_skip is None else self.fc_z_skip(z_s)
        return Condition(self.fc_z(z_s), skip, self.fc_z_view(z_a if self.config.use_z_app else z_s))

    def view(self, direction: Float[Tensor, "*rays 3"]) -> Float[Tensor, "*rays width"] | None:
        """Return what view directions (box coordinates, any length) add to the head; None where they take no part."""
        if not self.config.use_viewdirs:
            return None
        d = direction / direction.norm(dim=-1, keepdim=True)
        # paper: directions have unit length; the authors' fields divide them by the points' extent, and so do weights
        return self.fc_view(positional_encoding(d / self.config.extent, self.config.n_octaves_view))

    def density(self, p: Float[Tensor, "*n 3"], c: Condition) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n width"]]:
        """Return density before its ReLU, and the last shared layer; the rows of `c` must fit the points of `p`."""
        encoded = positional_encoding(p / self.config.extent, self.config.n_octaves)
        h = F.relu(self.fc_in(encoded).add_(c.entry), inplace=True)  # in place: these tensors are the large ones
        for i, block in enumerate(self.blocks, start=1):
            h = F.relu(block(h), inplace=True)
            if i == self.config.skip and self.fc_p_skip is not None and c.skip is not None:
                h = h + c.skip + self.fc_p_skip(encoded)
        return self.sigma_out(h).squeeze(-1), h

    def forward(
        self, p: Float[Tensor, "*n 3"], c: Condition, view: Float[Tensor, "*n width"] | None = None
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n width"]]:
        """Return density before its ReLU, and the hidden features to composite along a ray."""
        sigma, h = self.density(p, c)
        return sigma, h if view is None else F.relu(self.feat_view(h) + c.head + view)

    def head(
        self, hidden: Float[Tensor, "n rays width"], alpha: Float[Tensor, "n rays"], c: Condition
    ) -> Float[Tensor, "n rays features"]:
        """Return features of rays from composited hidden features sum_s w_s h_s and from alpha = sum_s w_s."""
        alpha = alpha[..., None]
        if not self.config.use_viewdirs:  # with them, this layer's ReLU stands before the compositing
            hidden = F.linear(hidden, self.feat_view.weight) + alpha * (self.feat_view.bias + c.head[:, None])
        return F.linear(hidden, self.feat_out.weight) + alpha * self.feat_out.bias

    def as_op(self, c: Condition) -> tuple[Mlp, Encoding]:
        """Return density and last shared layer as `training.nn.ops.field.render_field` takes them."""
        n = c.entry.shape[0]
        biases = [self.fc_in.bias + c.entry, *(block.get_parameter("bias").expand(n, -1) for block in self.blocks)]
        skip = None
        if self.fc_p_skip is not None and c.skip is not None:
            biases.append(c.skip + self.fc_p_skip.bias)
            skip = self.fc_p_skip.weight.T[None]
        mlp = Mlp(
            entry=self.fc_in.weight.T[None],
            hidden=torch.stack([block.get_parameter("weight").T for block in self.blocks])[None],
            bias=torch.stack(biases, 1),
            sigma=self.sigma_out.weight.expand(n, -1),
            sigma_bias=self.sigma_out.bias.expand(n),
            skip=skip,
            skip_after=1 + self.config.skip if skip is not None and self.config.skip else 0,  # the entry counts
        )
        return mlp, Encoding(self.config.n_octaves, extent=self.config.extent)
