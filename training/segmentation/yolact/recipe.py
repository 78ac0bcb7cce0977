"""Training of the networks on pictures with masks (YOLACT Sec. 4)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from training.batched import fields_of
from training.devices import autocast
from training.runtime.distributed import share_of
from training.segmentation.yolact.config import FOLDED
from training.segmentation.yolact.detection import DetectionConfig
from training.segmentation.yolact.losses import losses
from training.segmentation.yolact.network import Predictions, Yolact
from training.segmentation.yolact.official import CLASS_LAYERS, for_other_classes
from training.segmentation.yolact.photos import Placement
from training.segmentation.yolact.presets import RateConfig, Settings
from training.segmentation.yolact.segmenter import FinderConfig, YolactSegmenter
from training.segmentation.yolact.trunks import folded_name, load_trunk
from training.types import Batch, Image, Instances, Phase, Step

Losses = Callable[[Batch, Step], dict[str, Tensor]]


def rate_factor(config: RateConfig, images: int, total: int) -> float:
    """Return what the learning rate is multiplied with after `images` of `total` pictures."""
    if config.cosine:
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, images / total)))
    else:
        falling = 0.1 ** sum(images >= drop for drop in config.drops)
    rising = min(1.0, images / config.warm_up) if config.warm_up else 1.0
    return falling * (config.warm_up_from + (1 - config.warm_up_from) * rising)


def initialise(network: Yolact, *, small_head: bool = False) -> None:
    """Draw the weights of all convolutions outside the trunk anew: Xavier's uniform ones, biases at zero; with
    `small_head` normal ones of deviation 0.01 (RetinaNet Sec. 4.1) for the outputs of the head."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and not name.startswith("backbone."):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if small_head and name.endswith(("bbox_layer", "conf_layer", "mask_layer")):
            assert isinstance(module, nn.Conv2d)
            nn.init.normal_(module.weight, std=0.01)


class Recipe:
    """One phase: all losses at once, by SGD."""

    anew = CLASS_LAYERS
    """Weights that another network need not have to begin with it."""

    def __init__(self, config: Settings, device: torch.device) -> None:
        settings = config.network
        if config.pretrained and settings.backbone in FOLDED:
            settings = replace(settings, backbone=folded_name(config.trunk))
        self.config = config
        self.generator = Yolact(settings)
        initialise(self.generator, small_head=config.small_head)
        if config.pretrained:
            load_trunk(self.generator.backbone, settings.backbone, config.trunk)
        if config.channels_last:
            self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.networks = nn.ModuleDict({"generator": self.generator}).to(device)
        self.average: Yolact = self.generator
        self.optimizer = torch.optim.SGD(self._groups(), lr=config.rate.learning_rate, momentum=config.rate.momentum)

    def _groups(self) -> list[dict]:
        """Return the weights that learn, by rate and decay."""
        rate = self.config.rate
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.generator.named_parameters():
            if not self._learns(name):
                continue
            small = parameter.ndim == 1
            lr = rate.learning_rate * (rate.trunk if name.startswith("backbone.") else 1.0)
            decay = rate.weight_decay if rate.decay_all or not small else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
        return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]

    def _learns(self, name: str) -> bool:
        """Return whether a weight of the generator learns."""
        owner = self.generator.get_submodule(name.rpartition(".")[0])
        return not self._frozen(name) and (self._norm_learns() or not isinstance(owner, nn.BatchNorm2d))

    def _frozen(self, name: str) -> bool:
        return any(name.startswith(f"{beginning}.") for beginning in self.config.frozen)

    def _norm_learns(self) -> bool:
        loop = self.config.loop
        return share_of(loop.batch, loop.accumulate) >= self.config.norm_from

    def precision(self) -> torch.autocast:
        """Return the context in which the network computes: bfloat16 where the config allows it."""
        return autocast(self.device, bf16=self.config.loop.bf16)

    def phases(self) -> list[Phase]:
        """Return the one update of a step."""
        return [self._phase("network", self.generator, self.losses)]

    def _phase(self, name: str, network: nn.Module, losses: Losses) -> Phase:
        """Return an update of `network` by the run's optimiser, rates and bound on gradients."""
        return Phase(
            name=name,
            network=network,
            optimizer=self.optimizer,
            losses=losses,
            rate=self.rate,
            max_norm=self.config.rate.max_norm,
        )

    def rate(self, step: Step) -> float:
        """Return the factor on the learning rates at a step."""
        return rate_factor(self.config.rate, step.images, self.config.loop.images)

    def begin(self, batch: Batch, step: Step) -> None:
        """Put the network in training mode; in small batches BatchNorm keeps its statistics."""
        self.generator.train()
        if not self._norm_learns():
            for module in self.generator.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return B, C, M, S and, with mask re-scoring, I."""
        image = batch.image.contiguous(memory_format=torch.channels_last) if self.config.channels_last else batch.image
        with self.precision():
            levels = self.generator.pyramid(image)
        return self.losses_of(levels, batch, step)

    def losses_of(self, levels: list[Tensor], batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the losses of what pyramid levels give against a batch's objects."""
        network = self.generator
        with self.precision():
            found, segmentation = network.predict(levels), network.semantic_seg_conv(levels[0])
        return losses(
            Predictions(**{name: value.float() for name, value in fields_of(found).items()}),
            segmentation.float(),
            truth_of(batch),
            self.config.losses,
            self.config.matching,
            rng=step.rng,
            mask_iou=network.maskiou_net if network.config.mask_rescoring else None,
        )

    def adapt_weights(self, theirs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return another network's weights to begin with, without those of its classes where they are others.

        Raises: ValueError that names a weight by which it differs otherwise.
        """
        prefix = "generator."
        named = {key.removeprefix(prefix): tensor for key, tensor in theirs.items() if key.startswith(prefix)}
        kept = for_other_classes(named, self.generator.state_dict(), self.anew)
        return {f"{prefix}{key}": tensor for key, tensor in kept.items()}

    def check_source(self, theirs: Any, name: str) -> None:
        """Refuse the weights of a trunk that pads otherwise: they would fit, and see other pictures.

        `theirs` is the config of the network that they are of. Raises: ValueError that says which options fit.
        """
        ours, trunk = self.generator.config.backbone, getattr(theirs, "backbone", None)
        if trunk != ours and {trunk, ours} == set(FOLDED):
            raise ValueError(
                f"{name} has the trunk {trunk}, and this start {ours}: the same weights with other padding, which "
                f"would see everything shifted; give --no-pretrained --network.backbone {trunk}"
            )

    @torch.no_grad()
    def grids(self, generator: Yolact, batch: Batch) -> dict[str, Image]:
        """Return the pictures with true masks, and with found masks, drawn over them."""
        finder = YolactSegmenter(
            generator, FinderConfig(detection=DetectionConfig(suppression="cross-class", threshold=0.3), least=0.3)
        )
        size = generator.config.size
        placement = Placement(height=size, width=size)
        found = []
        for image in batch.image:
            objects = finder.choose(generator(image[None]), placement)
            masks = [torch.from_numpy(thing.patch.paste(size, size) > 0.5) for thing in objects]
            found.append(_painted(image, masks, [thing.label for thing in objects]))
        truth = truth_of(batch)
        true = [_painted(image, list(t.mask), t.label.tolist()) for image, t in zip(batch.image, truth, strict=True)]
        return {"truth": rows_of_eight(true), "found": rows_of_eight(found)}


def truth_of(batch: Batch) -> list[Instances]:
    """Return the objects of each picture, on the pictures' device. Raises: ValueError for a batch without them."""
    if batch.instances is None:
        raise ValueError("the set says nothing of single objects; give a COCO folder as --data")
    device = batch.image.device
    return [Instances(**{k: v.to(device) for k, v in fields_of(objects).items()}) for objects in batch.instances]


def _painted(image: Tensor, masks: list[Tensor], labels: list[int]) -> Tensor:
    """Return a picture with masks over it, in the colours of their labels."""
    painted = image.clamp(-1, 1).clone()
    for mask, label in zip(masks, labels, strict=True):
        hue = torch.tensor([label * 0.618 + shift for shift in (0.0, 1 / 3, 2 / 3)], device=image.device)
        colour = torch.cos(2 * math.pi * hue)[:, None, None]
        painted = torch.where(mask.to(image.device), 0.5 * painted + 0.5 * colour, painted)
    return painted


def rows_of_eight(pictures: list[Tensor]) -> Image:
    """Return pictures as a batch whose length is a multiple of 8, black ones added."""
    missing = -len(pictures) % 8
    return torch.stack(pictures + [torch.full_like(pictures[0], -1)] * missing)
