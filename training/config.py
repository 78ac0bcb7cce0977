"""Settings of every run: its length, what it writes, and how a prepared set becomes batches.

This module imports nothing of ours, so that a model's config loads neither the loop nor a metric.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Length of a run, batches, and what it writes when. Lengths are in real pictures seen."""

    images: int = 200_000
    """Pictures to see in all, resumed parts included."""
    batch: int = 16
    """Pictures a step, over all processes."""
    accumulate: int = 1
    """Parts into which each process splits its batch (gradient accumulation); more parts take less memory, more
    time."""
    seed: int = 0
    """Random seed of initial weights, the order of pictures and all draws."""
    ema_half_life: int | None = None
    """Half-life of the averaged generator in pictures; by default 10,000 for a batch of 32, in proportion."""
    ema_warm_up: float = 0.05
    """Upper limit of the half-life as a share of the pictures seen so far (StyleGAN2-ADA Appendix C)."""
    bf16: bool = True
    """Compute in bfloat16 where the recipe allows it; weights stay float32."""
    log_every: int = 50
    """Steps between lines of the log."""
    grid_every: int = 5_000
    """Pictures between grids of samples in the run folder."""
    save_every: int = 5_000
    """Pictures between resume states; a smaller value loses less after a crash and writes more."""
    keep: int = 3
    """Resume states kept."""
    figures_every: int = 0
    """Pictures between short knob reports in the log and in TensorBoard; 0 writes none."""
    figures_n: int = 128
    """Pictures for each fit of these reports; more is more precise and takes longer."""
    figures_distance: int = 0
    """Pictures on either side for the Frechet distance `fd` in these reports; 0 leaves it out."""
    figures_features: Path | None = None
    """Feature network for `fd` instead of FID's Inception, as in `python -m training fid --features`."""
    best_by: str | None = None
    """Figure, such as rotation_error, by which the best generator so far is kept as `best.safetensors`."""

    def __post_init__(self) -> None:
        for name in ("images", "batch", "accumulate", "log_every", "grid_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} is {getattr(self, name)}; it must be at least 1")
        if self.ema_half_life is not None and self.ema_half_life < 1:
            raise ValueError(f"loop.ema_half_life is {self.ema_half_life}; it must be at least 1")
        if self.figures_every < 0 or self.figures_n < 32:
            raise ValueError(
                f"loop.figures_every is {self.figures_every}, figures_n {self.figures_n}; expected at least 0 and 32"
            )
        for name in ("best_by", "figures_distance"):
            if (value := getattr(self, name)) and not self.figures_every:
                raise ValueError(f"loop.{name} is {value}, but no figures are taken; give --loop.figures-every too")

    @property
    def half_life(self) -> float:
        """`ema_half_life`, or 10,000 pictures for a batch of 32 and in proportion (StyleGAN2-ADA Appendix C)."""
        return self.ema_half_life or self.batch * 10_000 / 32


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How pictures of a prepared set become training batches."""

    size: int = 64
    """Side of the square pictures in pixels."""
    object_margin: float | None = None
    """Side of the square crop around the object, over the longer side of its box; None takes whole pictures."""
    scene: bool = False
    """Also load the whole picture as a square, for background discriminators."""
    scene_size: int | None = None
    """Side of that square in pixels; None takes `size`."""
    flip: bool = True
    """Mirror half of the pictures left to right, with their boxes and masks."""
    jitter: float = 0.0
    """Random crops: the picture, and its scene, are loaded larger by this share and cropped; 0 for none."""
    jitter_size: bool = False
    """The picture's crops also differ in size, from `size` to all of what is loaded, and are then reduced to `size`: a
    model of objects cut by their boxes learns no other place and size than the boxes have."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size {self.size} is no picture size; expected 1 or more pixels")
        if self.scene_size is not None and self.scene_size < 1:
            raise ValueError(f"scene_size {self.scene_size} is no picture size; expected 1 or more pixels, or none")
        if self.object_margin is not None and self.object_margin < 1:
            raise ValueError(f"object_margin {self.object_margin} would cut the object; expected 1 or more, or none")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter {self.jitter} is out of range; expected 0 to 1")
