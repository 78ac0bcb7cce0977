"""How YOLACT, YOLACT++ and YolactEdge are trained (YOLACT Sec. 4), and our fast network. Lengths are in pictures."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training.config import LoopConfig
from training.data.coco import find_split
from training.segmentation.yolact.augment import AugmentConfig
from training.segmentation.yolact.config import NetworkConfig
from training.segmentation.yolact.data import InstanceDataConfig
from training.segmentation.yolact.data_video import FlowDataConfig, VideoDataConfig
from training.segmentation.yolact.losses import LossWeights
from training.segmentation.yolact.matching import MatchConfig
from training.segmentation.yolact.published import NETWORKS


@dataclass(frozen=True, kw_only=True, slots=True)
class RateConfig:
    """The learning rate over the run, and the rest of SGD; the defaults are the published ones."""

    learning_rate: float = 1e-3
    """For batches of 8; of other sizes, change it in proportion."""
    warm_up: int = 500 * 8
    """Pictures over which the rate rises, linearly."""
    warm_up_from: float = 0.1
    """Share of the rate that it rises from."""
    drops: tuple[int, ...] = (280_000 * 8, 600_000 * 8, 700_000 * 8, 750_000 * 8)
    """Pictures at which the rate falls to a tenth."""
    cosine: bool = False
    """Let the rate fall along a cosine, to 0 at the end, instead."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of SGD: this share of each weight, times the rate, is subtracted a step."""
    decay_all: bool = True
    """Let biases and the weights of BatchNorm decay too."""
    trunk: float = 1.0
    """Factor of the learning rate of the trunk."""
    max_norm: float | None = None
    """Norm that gradients are scaled down to; None leaves them."""

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.warm_up >= 0 and 0 <= self.warm_up_from <= 1 and self.trunk >= 0):
            raise ValueError(
                f"learning_rate {self.learning_rate}, warm_up {self.warm_up}, warm_up_from {self.warm_up_from}, trunk "
                f"{self.trunk}: expected a rate above 0, shares from 0 to 1 and nothing below 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of all stages of training."""

    family: str = field(init=False)
    """Name in `training.registry.FAMILIES`."""
    loop: LoopConfig
    data: Any
    """How the set is read and varied."""
    network: NetworkConfig
    losses: LossWeights = field(default_factory=LossWeights)
    matching: MatchConfig = field(default_factory=MatchConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    pretrained: bool = True
    """Begin with a trunk pretrained on ImageNet: torchvision's, or that of `trunk`."""
    trunk: Path | None = None
    """A file of the trunk's weights."""
    frozen: tuple[str, ...] = ()
    """Modules whose weights do not learn, by their names in the generator."""
    norm_from: int = 6
    """Pictures in a process's batch from which BatchNorm is trained, statistics too; with fewer it is frozen."""
    small_head: bool = False
    """Begin with outputs of the head near zero, so that the first steps do not have large ones to undo."""
    channels_last: bool = False
    """Keep maps in the order that is faster on a CPU and in half precision."""

    def __post_init__(self) -> None:
        ours, data = self.network, self.data
        if (ours.size, ours.letterbox) != (data.size, data.letterbox):
            raise ValueError(
                f"data.size {data.size} and data.letterbox {data.letterbox} must be those of the network: {ours.size} "
                f"and {ours.letterbox}"
            )
        if data.classes and data.classes != ours.classes:
            raise ValueError(f"data.classes {data.classes} must be those of the network: {ours.classes}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Settings):
    """Training of a network that finds objects in pictures."""

    family: str = field(default="yolact", init=False)
    """Fixed by the preset."""
    data: InstanceDataConfig
    """How pictures are read and varied."""

    def for_folder(self, path: Path) -> "TrainConfig":
        """Return this config for the categories of a COCO folder."""
        classes = self.data.classes or find_split(path, self.data.split).categories
        return replace(self, network=replace(self.network, classes=classes), data=replace(self.data, classes=classes))


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowTrainConfig(Settings):
    """Training of the flow of a network for video, before that of the network itself on films."""

    family: str = field(default="yolact_flow", init=False)
    """Fixed by the preset."""
    data: FlowDataConfig
    """How pairs of frames are read and varied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoTrainConfig(Settings):
    """Training of a network for video on films; its trunk and the pyramid's first phase are frozen."""

    family: str = field(default="yolact_video", init=False)
    """Fixed by the preset."""
    data: VideoDataConfig
    """How films are read and varied."""
    pictures: Path | None = None
    """A COCO folder that each step learns from besides, as published: of its categories those that the films know."""
    feature: float = 1.0
    """Weight of W."""
    published_slip: bool = False  # paper: W sends x5 through P3's convolution; here through its own, P5's
    """Compute W as the published program does."""

    def for_folder(self, path: Path) -> "VideoTrainConfig":
        """Return this config for the categories of a folder of films."""
        classes = self.data.classes or self.data.open(path).categories
        return replace(self, network=replace(self.network, classes=classes), data=replace(self.data, classes=classes))


def _published(name: str, steps: int = 800_000, **changes: object) -> TrainConfig:
    """Return how the authors trained the config `name`: batches of 8, no average of the weights."""
    network = NETWORKS[name]
    data = InstanceDataConfig(size=network.size, letterbox=network.letterbox)
    loop = LoopConfig(
        images=8 * steps, batch=8, ema_half_life=1, bf16=False, save_every=80_000, grid_every=80_000, keep=2
    )
    config = TrainConfig(loop=loop, data=data, network=network)
    return replace(config, **changes)  # type: ignore[arg-type]


BASE = _published("yolact_base")
IM400 = _published("yolact_im400")
IM700 = _published("yolact_im700", losses=LossWeights(masks_learnt=300))
RESNET50 = _published("yolact_resnet50")
RESNET50_PASCAL = _published("yolact_resnet50_pascal", 120_000, rate=RateConfig(drops=(60_000 * 8, 100_000 * 8)))
DARKNET53 = _published("yolact_darknet53")
PLUS_BASE = _published("yolact_plus_base")
PLUS_RESNET50 = _published("yolact_plus_resnet50")
EDGE = _published("yolact_edge")
EDGE_RESNET50 = _published("yolact_edge_resnet50")
EDGE_MOBILENETV2 = _published("yolact_edge_mobilenetv2")
EDGE_YOUTUBEVIS_RESNET50 = _published(
    "yolact_edge_youtubevis_resnet50", 500_000, rate=RateConfig(learning_rate=5e-4, drops=(), cosine=True)
)


def _of_flow(name: str) -> FlowTrainConfig:
    """Return how the authors taught the flow: FlyingChairs, 400,000 steps."""
    loop = LoopConfig(
        images=8 * 400_000, batch=8, ema_half_life=1, bf16=False, save_every=80_000, grid_every=80_000, keep=2
    )
    rate = RateConfig(learning_rate=2e-4, drops=(), cosine=True)
    network = NETWORKS[name]
    return FlowTrainConfig(
        loop=loop, data=FlowDataConfig(size=network.size), network=network, rate=rate, pretrained=False
    )


def _of_video(name: str) -> VideoTrainConfig:
    """Return how the authors taught the network for video: films and COCO together, 200,000 steps."""
    loop = LoopConfig(
        images=8 * 200_000, batch=8, ema_half_life=1, bf16=False, save_every=80_000, grid_every=80_000, keep=2
    )
    rate = RateConfig(learning_rate=2e-4, drops=(), cosine=True, warm_up_from=0.0)
    network = NETWORKS[name]
    return VideoTrainConfig(
        loop=loop, data=VideoDataConfig(size=network.size), network=network, rate=rate, pretrained=False
    )


EDGE_TRAINFLOW = _of_flow("yolact_edge_vid")
EDGE_TRAINFLOW_RESNET50 = _of_flow("yolact_edge_vid_resnet50")
EDGE_VID = _of_video("yolact_edge_vid")
EDGE_VID_RESNET50 = _of_video("yolact_edge_vid_resnet50")

FAST = NetworkConfig(
    classes=("car", "cat", "dog", "fruit"),
    backbone="mobilenetv2-same",
    size=320,
    scales=(28.0, 56.0, 112.0, 224.0),  # paper: 24 to 192 of 550 px; here larger: of an augmented batch's objects
    # 98 % meet an anchor at an IoU of .5, with the paper's 48 %
    square_anchors=False,  # paper: square, a slip; here the ratios that are asked for
    pyramid_dim=96,  # paper: 256; here 96, because the pyramid and the head were most of the work
    protonet_dim=64,
    protonet_depth=2,
    letterbox=True,  # paper: squashed; here the aspect ratio is kept, so that a wide photo's objects look the same
)
"""Our network for one CPU core: 3.3 GFLOP a picture. Its classes are those of the set that it is trained on."""

FAST_320 = TrainConfig(
    loop=LoopConfig(images=240_000, batch=8, ema_half_life=5_542, bf16=True, save_every=8_000, grid_every=8_000),
    data=InstanceDataConfig(
        size=320,
        letterbox=True,
        fill=(127.5, 127.5, 127.5),
        augment=AugmentConfig(expand=2.0, smallest=1.0, negatives=True),  # paper: 4, 4/550 px, no negatives
    ),
    network=FAST,
    matching=MatchConfig(negatives_alone=64),  # paper: 0; here pictures without objects teach what is none
    rate=RateConfig(
        learning_rate=2e-3, drops=(), cosine=True, decay_all=False, trunk=0.1, max_norm=10.0
    ),  # paper: 1e-3 in steps, everything decays; here a cosine, the trunk without BatchNorm at a tenth
    frozen=("backbone.network.stem", "backbone.network.stages.0", "backbone.network.stages.1"),  # paper: all learn
    small_head=True,  # paper: Xavier; here the losses begin a tenth as large
    channels_last=True,
)
"""EMA .999 a step."""
