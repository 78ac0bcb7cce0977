"""What has not changed is taken from memory: the same picture to the last bit, and no second computation."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from giraffe_hd.fast import config as giraffe
from giraffe_hd.fast import generator as fast
from giraffe_hd.paper import generator as paper
from giraffe_hd.paper.config import VolumeConfig
from giraffe_hd.paper.presets import COMPCAR_256
from mixnmatch.fast import config as mixing
from mixnmatch.fast import generator as mixnmatch
from training.runtime.result_cache import ResultCache
from training.types import Generator


def make(family: str) -> Generator:
    torch.manual_seed(0)
    if family == "mixnmatch":
        return mixnmatch.Generator(mixing.GeneratorConfig(resolution=32)).eval()
    if family == "fast":
        return fast.Generator(giraffe.GeneratorConfig()).eval()
    sizes = {
        "z_dim": 8,
        "z_dim_bg": 8,
        "feat_dim": 16,
        "n_mlp": 2,
        "resolution": 16,
        "volume": VolumeConfig(resolution=8),
    }
    return paper.Generator(replace(COMPCAR_256.generator, **sizes)).eval()


TURNS = {
    "fast": {
        "rotation": (200.0, {"field", "object", "mask"}),
        "elevation": (20.0, {"field", "object", "mask", "background"}),
        "look": (5.0, {"map_look", "object"}),
        "shape": (5.0, {"map_shape", "field", "object", "mask"}),
        "background": (5.0, {"background"}),
    },
    "paper": {
        "rotation": (200.0, {"object_field"}),
        "elevation": (80.0, {"object_field", "background_field", "bg_renderer"}),
        "background_look": (5.0, {"mapping_fg", "mapping_bg", "background_field", "bg_renderer"}),
    },
    "mixnmatch": {
        "background_seed": (3.0, {"background"}),
        "pose_seed": (3.0, {"space"}),
        "texture_seed": (3.0, set()),
    },
}
"""Family -> knob -> where it is turned to, and which of the parts in `PARTS` that takes."""
PARTS = {
    "fast": {"map_shape", "map_look", "field", "object", "mask", "background"},
    "paper": {"mapping_fg", "mapping_bg", "object_field", "background_field", "bg_renderer"},
    "mixnmatch": {"background", "space"},
}


@pytest.mark.parametrize(("family", "knob"), [(family, knob) for family, turns in TURNS.items() for knob in turns])
@torch.no_grad()
def test_only_what_a_knob_changes_is_computed(family, knob):
    generator = make(family)
    value, wanted = TURNS[family][knob]
    before = generator.sample(1, torch.Generator().manual_seed(0))
    after = generator.set(before, knob, value)
    plain = [generator(codes) for codes in (before, after)]
    ran: Counter[str] = Counter()
    for name, part in generator.named_modules():
        if (short := name.rpartition(".")[2]) in PARTS[family]:
            watch(part, short, ran)
    generator.result_cache = ResultCache()
    first = generator(before)
    assert set(ran) == PARTS[family]
    ran.clear()
    turned = generator(after)
    assert set(ran) == wanted
    for ours, theirs in zip((first, turned, generator(before)), (*plain, plain[0]), strict=True):
        for layer in theirs.__dataclass_fields__:
            assert torch.equal(getattr(ours, layer), getattr(theirs, layer)), layer


def watch(part: nn.Module, name: str, ran: Counter[str]) -> None:
    """Count in `ran` how often a part computes, be it called as a whole or by its first layer."""
    first = next((m for m in part.modules() if not list(m.children())), part)
    first.register_forward_hook(lambda *_: ran.update([name]))


def test_learning_takes_nothing_from_memory():
    generator = make("fast")
    generator.result_cache = ResultCache()
    generator(generator.sample(1, torch.Generator().manual_seed(0))).image.mean().backward()
    assert len(generator.result_cache) == 0
    assert generator.get_parameter("background.constant").grad is not None


def test_memory_keeps_the_latest_and_tells_types_apart():
    result_cache, made = ResultCache(most=2), []

    def ask(x: torch.Tensor) -> str:
        return result_cache("name", lambda: made.append(x) or f"{len(made)}", x)

    one, two, three = (torch.full((1,), v) for v in (1.0, 2.0, 3.0))
    assert [ask(one), ask(two), ask(one), ask(three)] == ["1", "2", "1", "3"]
    assert (ask(one), ask(two)) == ("1", "4"), "two was used longest ago"
    assert ask(one.view(1, 1)) == "5"
    assert ask(one.view(torch.int32)) == "6"
    with pytest.raises(ValueError, match="got a cache of"):
        ResultCache(most=0)
