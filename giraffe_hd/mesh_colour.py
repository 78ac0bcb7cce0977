"""Colours of a mesh: what the generator's pictures show of each vertex, over views from all around."""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from giraffe_hd.codes import Codes
from giraffe_hd.mesh import Colours, Mesh, normals
from training.data.cars.colour import linear
from training.nn.camera import look_at, project, world_points

VIEWS = 12
"""Turns of the object, evenly around."""
ELEVATIONS = (0.1, 0.9)
"""Where the camera stands for them, shares of the trained range from its lower end."""
BEHIND = 0.15
"""Vertices that lie deeper than what a picture shows by more than this share of the object's length are hidden."""


@torch.no_grad()
def vertex_colours(generator: Any, codes: Codes, mesh: Mesh) -> Colours:
    """Return the colour, in linear light, of each vertex of the first scene's one object.

    Each view counts by how squarely it sees the vertex. What no view shows gets the mean colour.
    """
    config, knob = generator.config, generator.knob("elevation")
    pose = config.pose if hasattr(config, "pose") else config.prior
    low, high = math.radians(knob.low), math.radians(knob.high)
    local = torch.from_numpy(mesh.vertices).float().to(codes.azimuth.device)
    facing = torch.from_numpy(normals(mesh)).float().to(local)
    total, weight = torch.zeros_like(local), torch.zeros(len(local), 1).to(local)
    for share in ELEVATIONS:
        for turn in range(VIEWS):
            scene = replace(
                codes,
                elevation=torch.full_like(codes.elevation, low + share * (high - low)),
                azimuth=torch.zeros_like(codes.azimuth),
                rotation=torch.full_like(codes.rotation, turn * 2 * math.pi / VIEWS),
                translation=torch.zeros_like(codes.translation),
            )
            seen, share_seen = _seen(generator, scene, local, facing, pose.fov)
            total, weight = total + seen * share_seen, weight + share_seen
    known = weight[:, 0] > 1e-3
    mean = (total[known] / weight[known]).mean(0) if bool(known.any()) else total.new_zeros(3)
    colours = torch.where(known[:, None], total / weight.clamp_min(1e-6), mean)
    return linear((colours.double().cpu().numpy() + 1) / 2).clip(0, 1)


def _seen(
    generator: Any, scene: Codes, local: Float[Tensor, "vertices 3"], facing: Float[Tensor, "vertices 3"], fov: float
) -> tuple[Float[Tensor, "vertices 3"], Float[Tensor, "vertices 1"]]:
    """Return what one picture shows at the vertices, and how far it shows them."""
    layers = generator(scene)
    unit = torch.ones_like(scene.scale[:1])
    world = world_points(local[None], unit, 0 * unit, scene.rotation[:1])
    plane, depth = project(world, scene.azimuth[:1], scene.elevation[:1], scene.radius[:1], fov)
    grid = (plane * plane.new_tensor([1, -1]))[:, :, None]
    colour, mask = (
        F.grid_sample(x[:1].float(), grid, align_corners=False, padding_mode="border")[0, :, :, 0].T
        for x in (layers.foreground, layers.mask)
    )
    front = F.grid_sample(layers.depth[:1].float(), grid, mode="nearest", align_corners=False)[0, 0, :, 0]
    back = look_at(scene.azimuth[:1], scene.elevation[:1])[0, :, 2]
    turned = world_points(facing[None], unit, 0 * unit, scene.rotation[:1])[0]
    square = (turned @ back).clamp_min(0)
    shown = (front > 0) & (depth[0] - front < BEHIND * scene.scale[0, 0])
    return colour, (square.square() * mask[:, 0] * shown)[:, None]
