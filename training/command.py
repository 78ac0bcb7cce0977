"""What the commands of all packages share: one command runs, and a mistake is said in one sentence."""

import sys
from collections.abc import Callable

NO_MEMORY = (
    "memory does not suffice; train with a smaller --loop.batch or a larger --loop.accumulate, measure or draw fewer "
    "pictures at once (--batch, --n), or end other programs"
)


def said(run: Callable[[], object]) -> int:
    """Run a command; return 0, or 2 after a caller's mistake or where memory does not suffice, said in one sentence."""
    try:
        run()
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        print(f"error: {NO_MEMORY}", file=sys.stderr)
        return 2
    return 0


def lacks_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory does not suffice."""
    if isinstance(error, MemoryError):
        return True
    from training.devices import out_of_memory  # a RuntimeError of torch's, which is there then

    return out_of_memory(error)
