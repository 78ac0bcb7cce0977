"""Error handling shared by the commands of all packages: errors of the user are printed in one sentence."""

import sys
from collections.abc import Callable

NO_MEMORY = (
    "out of memory; train with a smaller --loop.batch or a larger --loop.accumulate, measure or draw fewer "
    "pictures at once (--batch, --n), or end other programs"
)


def exit_code(run: Callable[[], object]) -> int:
    """Run a command; return 0, or 2 after a user error or out of memory, which is printed in one sentence."""
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
    """Return whether `error` means that memory, the machine's or a GPU's, is exhausted."""
    if isinstance(error, MemoryError):
        return True
    from training.devices import out_of_memory  # a RuntimeError of torch's, which is there then

    return out_of_memory(error)
