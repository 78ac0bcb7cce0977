"""Marching tetrahedra: closed, outward, exact where the field is linear; mesh files that read back."""

import math
import struct
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from giraffe_hd.codes import Codes, Layers
from giraffe_hd.mesh import Mesh, glb, march, normals, object_mesh, write_mesh
from giraffe_hd.mesh_colour import vertex_colours
from training.data.cars.gltf import _accessor, _document
from training.nn.volume import box_rays
from training.types import Knob


def ball(n: int, radius: float) -> np.ndarray:
    line = np.linspace(-1, 1, n)
    x, y, z = np.meshgrid(line, line, line, indexing="ij")
    return radius - np.sqrt(x**2 + y**2 + z**2)


def signed_volume(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("radius", [0.31, 0.5, 0.77])
def test_a_ball_is_closed_round_and_turned_outward(radius):
    n = 41
    mesh = march(ball(n, radius), 0.0)
    vertices = mesh.vertices / (n - 1) * 2 - 1
    assert np.abs(np.linalg.norm(vertices, axis=1) - radius).max() < 3 * (2 / (n - 1)) ** 2 / (
        8 * radius
    )  # a chord's sagitta
    assert signed_volume(Mesh(vertices, mesh.faces)) == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.02)
    half_edges = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    back = {(b, a) for a, b in half_edges.tolist()}
    assert len(back) == len(half_edges) and back == set(map(tuple, half_edges.tolist()))  # each edge once each way
    assert len(mesh.vertices) - len(half_edges) // 2 + len(mesh.faces) == 2  # Euler: one sphere


def test_normals_are_of_unit_length_however_thin_the_triangles():
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    thin = Mesh(np.concatenate([corners, 1e-9 * corners, 0 * corners]), np.arange(9).reshape(3, 3))
    found = normals(thin)  # viewers refuse files with shorter ones; a point has no direction, so it gets one
    np.testing.assert_allclose(found, np.tile([0.0, 0.0, 1.0], (9, 1)))
    np.testing.assert_allclose(normals(Mesh(thin.vertices, thin.faces[:, ::-1]))[:6], np.tile([0.0, 0.0, -1.0], (6, 1)))


def test_a_linear_field_is_cut_exactly():
    x, y, z = np.meshgrid(*[np.arange(6.0)] * 3, indexing="ij")
    mesh = march(0.3 * x - 0.2 * y + 0.7 * z, 1.234)
    assert len(mesh.faces) > 20
    np.testing.assert_allclose(mesh.vertices @ [0.3, -0.2, 0.7], 1.234, atol=1e-12)
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    assert (np.cross(b - a, c - a) @ [0.3, -0.2, 0.7] <= 1e-12).all()  # from high to low


def test_nothing_above_the_level_is_an_empty_mesh():
    mesh = march(np.zeros((4, 4, 4)), 1.0)
    assert mesh.vertices.shape == (0, 3) and mesh.faces.shape == (0, 3)


class Ellipsoid:
    """A field with a known surface: density 100 at the middle of its box, 0 at half its extent."""

    def density(self, codes: Codes, points: torch.Tensor) -> torch.Tensor:
        return 100 * (1 - 2 * points.norm(dim=-1)).clamp_min(0)


def one_scene(scale: tuple[float, float, float]) -> Codes:
    z, one = torch.zeros(1, 2), torch.zeros(1)
    return Codes(
        z_s_fg=z, z_a_fg=z, z_s_bg=z, z_a_bg=z, azimuth=one, elevation=one, radius=one, rotation=one,
        scale=torch.tensor([scale]), translation=torch.zeros(1, 3),
    )  # fmt: skip


def test_object_meshes_have_world_size():
    mesh = object_mesh(Ellipsoid(), one_scene((0.2, 0.1, 0.4)), resolution=48, level=50.0)
    np.testing.assert_allclose(np.abs(mesh.vertices).max(0), [0.05, 0.025, 0.1], rtol=0.02)
    default = object_mesh(Ellipsoid(), one_scene((0.2, 0.1, 0.4)), resolution=48)
    wanted = 0.2 * 0.5 * (1 - math.log(2) / (0.2 * 0.2) / 100)
    assert np.abs(default.vertices).max(0)[0] == pytest.approx(wanted, rel=0.02)
    with pytest.raises(ValueError, match=r"no density of this object passes 101, the highest is .*; lower --level"):
        object_mesh(Ellipsoid(), one_scene((0.2, 0.1, 0.4)), resolution=16, level=101.0)
    for level in (-1.0, 0.0, math.nan):
        with pytest.raises(ValueError, match="expected a density above 0"):
            object_mesh(Ellipsoid(), one_scene((0.2, 0.1, 0.4)), resolution=16, level=level)


def test_files_read_back(tmp_path):
    mesh = march(ball(12, 0.5), 0.0)
    write_mesh(tmp_path / "ball.obj", mesh)
    lines = (tmp_path / "ball.obj").read_text().splitlines()
    vertices = np.array([line.split()[1:] for line in lines if line.startswith("v ")], dtype=float)
    faces = np.array([line.split()[1:] for line in lines if line.startswith("f ")], dtype=int) - 1
    np.testing.assert_allclose(vertices, mesh.vertices, atol=1e-4)
    assert np.array_equal(faces, mesh.faces)

    write_mesh(tmp_path / "ball.ply", mesh)
    head, body = (tmp_path / "ball.ply").read_bytes().split(b"end_header\n")
    n = len(mesh.vertices)
    assert f"element vertex {n}\n".encode() in head
    np.testing.assert_allclose(np.frombuffer(body[: 12 * n], "<f4").reshape(-1, 3), mesh.vertices, atol=1e-5)
    records = np.frombuffer(body[12 * n :], dtype=[("n", "u1"), ("corners", "<i4", 3)])
    assert (records["n"] == 3).all() and np.array_equal(records["corners"], mesh.faces)

    with pytest.raises(ValueError, match=r"cannot write ball\.stl: expected a name that ends in \.obj, \.ply, \.glb"):
        write_mesh(tmp_path / "ball.stl", mesh)
    assert not (tmp_path / "ball.stl").exists()


class TwoColours:
    """A ball whose front half is red and whose back half is blue, drawn by its own rays."""

    config = SimpleNamespace(pose=SimpleNamespace(fov=20.0))

    def knob(self, name: str) -> Knob:
        return Knob(name=name, label=name, kind="angle", low=10.0, high=35.0)

    def __call__(self, codes: Codes) -> Layers:
        rays = box_rays(codes.object_pose, 48, 20.0)
        o, d = rays.origin, rays.direction
        a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
        inside = b**2 - a * c
        t = (-b - inside.clamp_min(0).sqrt()) / a
        front = (o + d * t[..., None])[..., :1] > 0
        red, blue = torch.tensor([1.0, -1.0, -1.0]), torch.tensor([-1.0, -1.0, 1.0])
        picture = torch.where(front, red, blue).transpose(1, 2).unflatten(2, (48, 48))
        mask, depth = ((inside > 0).float().view(-1, 1, 48, 48), (t * (inside > 0)).view(-1, 1, 48, 48))
        return Layers(image=picture, foreground=picture, background=picture, mask=mask, alpha=mask, depth=depth)


def round_mesh() -> Mesh:
    """Return a ball of radius 0.2."""
    mesh = march(ball(24, 0.87), 0.0)
    return Mesh((mesh.vertices / 23 * 2 - 1) / 0.87 * 0.2, mesh.faces)


def test_vertices_have_the_colours_of_the_sides_that_show_them():
    mesh = round_mesh()
    codes = replace(one_scene((0.2, 0.2, 0.2)), radius=torch.tensor([2.732]))
    colours = vertex_colours(TwoColours(), codes, mesh)
    front, back = mesh.vertices[:, 0] > 0.06, mesh.vertices[:, 0] < -0.06
    seen = mesh.vertices[:, 2] > -0.1  # from below no camera looks
    np.testing.assert_allclose(colours[front & seen], [[1, 0, 0]] * (front & seen).sum(), atol=0.05)
    np.testing.assert_allclose(colours[back & seen], [[0, 0, 1]] * (back & seen).sum(), atol=0.05)
    assert colours.min() >= 0 and colours.max() <= 1


def test_glb_files_hold_the_mesh_y_up_with_its_colours(tmp_path):
    mesh = round_mesh()
    colours = np.random.default_rng(0).random(mesh.vertices.shape)
    write_mesh(tmp_path / "ball.glb", mesh, colours)
    data = (tmp_path / "ball.glb").read_bytes()
    assert data[:4] == b"glTF" and struct.unpack("<II", data[4:12]) == (2, len(data))
    document, binary = _document(tmp_path / "ball.glb")
    primitive = document["meshes"][0]["primitives"][0]
    read = {name: _accessor(document, [binary], i) for name, i in primitive["attributes"].items()}
    np.testing.assert_allclose(read["POSITION"][:, [2, 0, 1]], mesh.vertices, atol=1e-6)
    faces = _accessor(document, [binary], primitive["indices"]).reshape(-1, 3)
    np.testing.assert_array_equal(faces, mesh.faces)
    np.testing.assert_allclose(read["COLOR_0"][:, :3] / 65535, colours, atol=1e-4)
    assert (read["COLOR_0"][:, 3] == 65535).all()
    outward = (read["NORMAL"] * read["POSITION"]).sum(1) / np.linalg.norm(read["POSITION"], axis=1)
    assert outward.min() > 0.8
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])
    assert document["accessors"][0]["min"] == read["POSITION"].min(0).tolist()
    plain, _ = _document_of(glb(mesh), tmp_path)
    assert "COLOR_0" not in plain["meshes"][0]["primitives"][0]["attributes"] and len(plain["accessors"]) == 3


def _document_of(content: bytes, folder):
    (folder / "plain.glb").write_bytes(content)
    return _document(folder / "plain.glb")
