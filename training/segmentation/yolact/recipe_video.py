"""Training of YolactEdge's network for video: first its flow, then on films (YolactEdge Sec. III-C)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from training.runtime.sharded_random import rand
from training.segmentation.yolact.augment import AugmentConfig
from training.segmentation.yolact.data import InstanceDataConfig, InstanceSet
from training.segmentation.yolact.flow import Flow, warp
from training.segmentation.yolact.network import Yolact, resize
from training.segmentation.yolact.official import VIDEO_LAYERS
from training.segmentation.yolact.presets import FlowTrainConfig, VideoTrainConfig
from training.segmentation.yolact.recipe import Recipe, rows_of_eight
from training.segmentation.yolact.video import KeyFrame, carry, feature_loss, flow_loss
from training.types import Batch, Image, Phase, Step


class FlowRecipe(Recipe):
    """One phase: F, for the flow network and its input layers; everything else is frozen."""

    anew = VIDEO_LAYERS

    def __init__(self, config: FlowTrainConfig, device: torch.device) -> None:
        super().__init__(config, device)

    def _learns(self, name: str) -> bool:
        of_flow = name.startswith(("flow_net.conv", "flow_net.up", "flow_net_pre_convs.")) or name.endswith(
            ("pred1.conv.weight", "pred2.conv.weight", "pred3.conv.weight")
        )
        return of_flow and not self._frozen(name)

    def phases(self) -> list[Phase]:
        """Return the one update of a step."""
        learning = nn.ModuleList([self.generator.flow_net, self.generator.flow_net_pre_convs])
        return [self._phase("flow", learning, self.losses)]

    def begin(self, batch: Batch, step: Step) -> None:
        """Put the network in evaluation mode: BatchNorm is frozen."""
        super().begin(batch, step)
        self.generator.eval()

    def losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return F."""
        if batch.flow is None or batch.previous is None:
            raise ValueError("the set holds no flow; give the folder of FlyingChairs as --data")
        return {"F": flow_loss(self._flows(self.generator, batch.image, batch.previous), batch.flow)}

    def _flows(self, network: Yolact, now: Image, key: Image) -> list[Flow]:
        with torch.no_grad():
            laterals = [_lateral(network, frames) for frames in (now, key)]
        reduced = [network.flow_net_pre_convs(lateral) for lateral in laterals]
        return network.flow_net(*reduced)

    @torch.no_grad()
    def grids(self, generator: Yolact, batch: Batch) -> dict[str, Image]:
        """Return the frames, and what fetching them from the others along the flow gives."""
        if batch.previous is None:
            return {"frames": rows_of_eight(list(batch.image))}
        flow = self._flows(generator, batch.image, batch.previous)[0]
        shift = resize(flow.shift, batch.image.shape[2:])
        none = torch.zeros_like(shift[:, :1])
        fetched = warp(batch.previous, Flow(shift=shift, scale=none + 1, bias=none))
        return {"frames": rows_of_eight(list(batch.image)), "fetched": rows_of_eight(list(fetched))}


def _lateral(network: Yolact, frames: Image) -> Tensor:
    return network.laterals.lateral(network.backbone(network.backbone.normalise(frames), 1)[0])


class VideoRecipe(Recipe):
    """Three phases that share an optimiser: a batch of pictures, the frame in full, and the frame carried from an
    earlier one, with W besides."""

    anew = VIDEO_LAYERS

    def __init__(self, config: VideoTrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.settings = config
        self.pictures: InstanceSet | None = None
        if config.pictures is not None:
            augment = AugmentConfig(expand=1.0)
            data = InstanceDataConfig(
                size=config.network.size,
                letterbox=config.network.letterbox,
                classes=config.network.classes,
                partial=True,
                augment=augment,
            )
            self.pictures = data.open(config.pictures)

    def _learns(self, name: str) -> bool:
        return not name.startswith(("backbone.", "fpn_phase_1.")) and not self._frozen(name)

    def phases(self) -> list[Phase]:
        """Return the updates of a step; without `pictures`, those of films alone."""
        frozen = ("backbone", "fpn_phase_1")
        learning = nn.ModuleList(module for name, module in self.generator.named_children() if name not in frozen)
        kinds = {"frame": self.losses, "carried": self.carried_losses}
        if self.pictures is not None:
            kinds = {"pictures": self.picture_losses, **kinds}
        return [self._phase(name, learning, function) for name, function in kinds.items()]

    def begin(self, batch: Batch, step: Step) -> None:
        """Put the network in training mode, except for the trunk, which is frozen."""
        super().begin(batch, step)
        self.generator.backbone.eval()

    def picture_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the losses of as many pictures as there are frames."""
        assert self.pictures is not None
        chosen = (rand(len(batch.image), rng=step.rng) * len(self.pictures)).long().tolist()
        pictures = self.pictures.batch(chosen, step.rng)
        return self.losses(replace(pictures, image=pictures.image.to(batch.image.device)), step)

    def losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the losses of frames seen in full."""
        return self.losses_of(self.generator.outputs.levels(self._sums(batch.image)), batch, step)

    def carried_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the losses of frames carried from earlier ones, and W."""
        if batch.previous is None:
            raise ValueError("the set holds no earlier frames; give a folder of films as --data")
        network = self.generator
        key_sums = self._sums(batch.previous)
        with torch.no_grad():
            lateral = _lateral(network, batch.previous)
        key = KeyFrame(sums=(key_sums[0], key_sums[1], key_sums[2]), lateral=lateral)
        carried = carry(network, batch.image, key)
        terms = self.losses_of(network.outputs.levels(carried.sums), batch, step)
        true = self._sums(batch.image)
        W = feature_loss(network, carried.sums[1:], true[1:], published=self.settings.published_slip)
        return terms | {"W": self.settings.feature * W}

    @torch.no_grad()
    def _sums(self, frames: Image) -> Sequence[Tensor]:
        """Return the sums of the pyramid's first phase, where nothing learns."""
        network = self.generator
        return network.laterals.sums(network.backbone(network.backbone.normalise(frames)))
