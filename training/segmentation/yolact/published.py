"""The published networks by the authors' names."""

from dataclasses import replace

from training.segmentation.yolact.classes import COCO, PASCAL, YOUTUBE_VIS
from training.segmentation.yolact.config import NetworkConfig

_BASE = NetworkConfig(classes=COCO)
_PLUS = replace(
    _BASE, square_anchors=False, octaves=(1.0, 2 ** (1 / 3), 2 ** (2 / 3)), mask_rescoring=True, deformable_every=3
)
_EDGE = replace(_BASE, split_pyramid=True)
_VIDEO = replace(_EDGE, classes=YOUTUBE_VIS, video=True)

NETWORKS: dict[str, NetworkConfig] = {
    "yolact_base": _BASE,
    "yolact_im400": replace(_BASE, size=400, scales=(17, 34, 69, 139, 279)),
    "yolact_im700": replace(_BASE, size=700, scales=(30, 61, 122, 244, 488)),
    "yolact_resnet50": replace(_BASE, backbone="resnet50"),
    "yolact_resnet50_pascal": replace(
        _BASE, backbone="resnet50", classes=PASCAL, scales=(32, 64, 128, 256, 512), square_anchors=False
    ),
    "yolact_darknet53": replace(_BASE, backbone="darknet53"),
    "yolact_plus_base": _PLUS,
    "yolact_plus_resnet50": replace(_PLUS, backbone="resnet50", deformable_every=1),
    "yolact_edge": _EDGE,
    "yolact_edge_resnet50": replace(_EDGE, backbone="resnet50"),
    "yolact_edge_mobilenetv2": replace(_EDGE, backbone="mobilenetv2"),
    "yolact_edge_youtubevis_resnet50": replace(_EDGE, backbone="resnet50", classes=YOUTUBE_VIS),
    "yolact_edge_vid": _VIDEO,
    "yolact_edge_vid_resnet50": replace(_VIDEO, backbone="resnet50"),
}
"""The authors' config -> the network that it describes."""
