"""Speed of a training step of the published GIRAFFE HD, R1's share included: one JSON line a figure.

python -m tests.benchmarks.step --device cuda [--reference CLONE_OF_THE_AUTHORS_PROGRAM]

With `--reference`, the authors' networks take steps in turns with ours: discriminator, R1 every 16th time, generator,
with the losses of the paper (Sec. 3.3), in float32 as they train.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from giraffe_hd.fast.losses import binarisation
from giraffe_hd.paper.config import TrainConfig
from giraffe_hd.paper.losses import bbox_containment, coverage
from giraffe_hd.paper.presets import train_config
from giraffe_hd.paper.recipe import Recipe
from tests.benchmarks.rows import say, timed
from tests.benchmarks.volume import Volume, authors
from training.loop.step import step_rng, train_step, update_average
from training.nn.gan import discriminator_loss, generator_loss, learning, r1_penalty
from training.types import Batch, Step


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """Time 16 steps, on pictures of noise, and divide by 16."""

    set: str = "compcar"
    size: int = 256
    batch: int = 16
    device: Literal["cuda", "cpu"] = "cuda"
    bf16: bool = True
    """Ours in bfloat16 where it is safe."""
    reference: Path | None = None
    """A clone of github.com/AustinXY/GIRAFFEHD."""
    steps: int = 16
    """R1 is due once in 16."""
    repeats: int = 3

    def run(self) -> None:
        """Print the figures."""
        torch.manual_seed(0)
        config = train_config(self.set, self.size)
        config = replace(config, loop=replace(config.loop, batch=self.batch, bf16=self.bf16))
        image = (torch.rand(self.batch, 3, self.size, self.size) * 2 - 1).to(self.device)
        works = [self.ours(config, image)]
        if self.reference is not None:
            about = Volume(set=self.set, size=self.size, batch=self.batch, device=self.device)
            works.append(self.theirs(authors(self.reference, about, density=1.0)[0].train(), config, lambda: image)[0])
        losses: list[dict[str, float]] = [{} for _ in works]

        def keep(i: int) -> None:
            losses[i] = {name: float(value) for name, value in works[i]().items()}

        times = timed(*((lambda i=i: keep(i)) for i in range(len(works))), device=self.device, repeats=self.repeats)
        ms = [1000 * time.wall / self.steps for time in times]
        figures: dict[str, Any] = {"ms_a_step": ms[0], "pictures_per_second": 1000 * self.batch / ms[0]} | losses[0]
        if self.reference is not None:
            figures |= {"reference_ms_a_step": ms[1], "times_faster": ms[1] / ms[0]}
            figures |= {f"reference_{name}": value for name, value in losses[1].items()}
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        say(f"training step, {self.set} {self.size} px", self.device, dtype, self.batch, **figures)

    def ours(self, config: TrainConfig, image: Tensor) -> Callable[[], dict[str, Tensor]]:
        """Return our way to take the steps; it returns the last losses."""
        recipe = Recipe(config, torch.device(self.device))
        recipe.networks.requires_grad_(False)
        phases, average = recipe.phases(), Recipe(config, torch.device(self.device)).generator
        batch = Batch(image=image)

        def work() -> dict[str, Tensor]:
            logged: dict[str, Tensor] = {}
            for i in range(self.steps):
                step = Step(index=i, images=i * self.batch, rng=step_rng(0, i))
                recipe.begin(batch, step)
                logged |= train_step(phases, batch, step)
                update_average(average, recipe.generator, 0.998)
            return logged

        return work

    def theirs(
        self, generator: Any, config: TrainConfig, images: Callable[[], Tensor]
    ) -> tuple[Callable[[], dict[str, Tensor]], Any]:
        """Return the same steps with the authors' networks, on the photos of `images`, and the averaged generator."""
        import model  # type: ignore[import-not-found]  # the clone's; `authors` has put it on the path

        critic: nn.Module = model.Discriminator(size=self.size, channel_multiplier=2).to(self.device)
        generator.requires_grad_(False)
        critic.requires_grad_(False)
        d, g = (
            torch.optim.Adam(x.parameters(), lr=config.learning_rate, betas=(0.0, 0.99)) for x in (critic, generator)
        )
        average = authors(self.reference, Volume(set=self.set, size=self.size, device=self.device))[0]  # type: ignore[arg-type]

        def update(network: nn.Module, optimizer: torch.optim.Optimizer, losses: Callable[[], dict]) -> dict:
            with learning(network.parameters()):
                terms = losses()
                optimizer.zero_grad()
                torch.stack(list(terms.values())).sum().backward()
                optimizer.step()
            return {name: term.detach() for name, term in terms.items()}

        def adversarial() -> dict[str, Tensor]:
            image, fake = images(), generator(generator.get_rand_rep(self.batch))[0]
            return {"D/adversarial": discriminator_loss(critic(image)[:, 0], critic(fake)[:, 0])}

        def r1() -> dict[str, Tensor]:
            real = images().detach().requires_grad_()
            return {"R1/r1": config.r1_every * config.r1 / 2 * r1_penalty(critic(real)[:, 0], real)}

        def whole() -> dict[str, Tensor]:
            codes = generator.get_rand_rep(self.batch)
            layers = generator(codes, return_ids=[0, 5])
            box = generator.get_2Dbbox(codes, padd=0.0)
            return {
                "G/adversarial": generator_loss(critic(layers[0])[:, 0]),
                "G/bbox": config.bbox * bbox_containment(layers[5], box),
                "G/cvg": config.cvg * coverage(layers[5], config.min_ratio),
                "G/bin": config.bin * binarisation(layers[5]),
            }

        taken = itertools.count()

        def work() -> dict[str, Tensor]:
            logged: dict[str, Tensor] = {}
            for _ in range(self.steps):
                logged |= update(critic, d, adversarial)
                if next(taken) % config.r1_every == 0:
                    logged |= update(critic, d, r1)
                logged |= update(generator, g, whole)
                update_average(average, generator, 0.998)
            return logged

        return work, average


if __name__ == "__main__":
    tyro.cli(TrainingStep).run()
