"""Colours and directions of light, for the car renderer."""

import math

import numpy as np
from jaxtyping import Float, UInt8


def direction(azimuth: float, elevation: float) -> Float[np.ndarray, "3"]:
    """Return a unit vector to a point on the sky."""
    ce = math.cos(elevation)
    return np.array([ce * math.cos(azimuth), ce * math.sin(azimuth), math.sin(elevation)])


def light_of(red: float, green: float, blue: float) -> Float[np.ndarray, "3"]:
    """Return a colour in linear light, in the precision of shading."""
    return np.array([red, green, blue], np.float32)


def hsv(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """Return red, green and blue in [0, 1]."""
    shades = [(n + 6 * hue) % 6 for n in (5, 3, 1)]
    red, green, blue = (value - value * saturation * max(0.0, min(k, 4 - k, 1.0)) for k in shades)
    return red, green, blue


def linear(srgb: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return light from sRGB values."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def srgb(light: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return sRGB values from light."""
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def to_bytes(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Return [0, 1] as 0 ... 255."""
    return (values * 255).round().clip(0, 255).astype(np.uint8)
