"""Weights of another run, adapted to longer codes, so that a run can start from a model with shorter ones."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def adapted(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return another run's weights for the networks of `own`: those of a shorter shape code are lengthened, and draw
    the same; backgrounds of other cells begin anew."""
    return without_other_backgrounds(with_longer_shape_codes(theirs, own), own)


def with_longer_shape_codes(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose shape code is as long as in `own`: its new numbers are read, but move nothing at first.

    New are the last ones of its global part, or maps that theirs has not.
    """
    found, entry, read = dict(theirs), "generator.shape.start.weight", "generator.shape_encoder.code."
    kept = "generator.bank_p"
    if entry not in found:
        return found
    old, bank = found[entry], found[kept]
    now, more = own[entry].shape[1] - old.shape[1], own[kept].shape[1] - bank.shape[1]
    if now < 0 or more < now or (now > 0 and bank.shape[1] > old.shape[1]):  # shorter, or numbers before a map
        return found
    if now > 0:
        scale = math.sqrt(own[entry].shape[1] / old.shape[1])  # equalised rates
        found[entry] = torch.cat([old * scale, old.new_zeros(len(old), now)], 1)
        for name in (read + "weight", read + "bias"):
            found[name] = torch.cat([found[name], own[name][old.shape[1] :].to(found[name])])
    found[kept] = torch.cat([bank, bank.new_zeros(len(bank), more)], 1)
    return found


def without_other_backgrounds(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without those of a background whose code has another length than in `own`."""
    name = "generator.bank_b"
    if name not in theirs or theirs[name].shape[1] == own[name].shape[1]:
        return dict(theirs)
    return {key: value for key, value in theirs.items() if not key.startswith("generator.background")}
