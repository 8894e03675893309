"""What a run sets up before it begins: quiet imports, threads, an output folder that is free."""

# Nothing heavy is imported here: a recipe imports this module before [`run_main`] can turn Ctrl-C into one line.
from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable


# No bar for less than a second of work; read by tqdm when it is imported.
os.environ.setdefault("TQDM_DELAY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def run_main(main: Callable[[], None]) -> Callable[[], None]:
    """
    Wraps a recipe's `main`: a user's mistake is one message on the main process and exit code 2, without a traceback;
    a full disk, a signal or a bug is reported in one line too, see [`~rm_toolkit.output.ending.ending_of`].

    Args:
        main (`Callable`): The recipe.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        ending, said = None, True
        try:
            from ..output.ending import ending_of
            from ..output.process_files import named_temporary_files
            from ..output.progress import hide_bars_of_libraries
            from ..output.stop_signals import terminable

            try:
                with terminable(to_the_end=main.__module__ == "__main__"), named_temporary_files():
                    hide_bars_of_libraries()
                    prepare_libraries()
                    main()
            except SystemExit:
                raise
            except BaseException as error:
                ending, said = ending_of(error), is_said_here(error)
            finally:
                leave()
        except KeyboardInterrupt:  # before the handler was installed, or a second time
            print("stopped by Ctrl-C.", file=sys.stderr)
            sys.exit(130)
        if ending is not None:
            if said and ending.message is not None:
                print(ending.message, file=sys.stderr, flush=True)
            sys.exit(ending.code)

    return wrapped


def is_said_here(error: BaseException) -> bool:
    """Whether this process prints how it ended; an error of all processes is printed once."""
    from ..errors import InputError

    return int(os.environ.get("RANK", "0")) == 0 or not isinstance(error, InputError) or error.of_one_process


def prepare_libraries() -> None:
    """Imports the slow libraries quietly, and ties this process to its launcher."""
    import logging

    import torch

    from ..models.hub_client import bound_hub_client
    from .stopping import end_with_launcher

    # DeepSpeed looks for an accelerator when it is first imported and warns if there is none; a CPU is fine here.
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # On a CPU bitsandbytes suggests a package that would download kernels from the Hub; it works without them.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    end_with_launcher()
    bound_hub_client()


def leave() -> None:
    """Leaves the process group, and releases what this process holds."""
    from ..output.lock import release_all

    leave_process_group()
    release_all()


def leave_process_group() -> None:
    """
    Leaves the process group while Python still runs, because the group has threads.

    Whatever still refers to the group (such as the device mesh of a sharded model) would keep gloo's threads alive
    until the interpreter is torn down, where they sometimes abort the process ("terminate called without an active
    exception").
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "distributed"):
        return
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        import gc

        gc.collect()
        # DeepSpeed has its own groups. After an error the other processes may never reach a collective call; leaving
        # needs none.
        deepspeed = sys.modules.get("deepspeed")
        held = deepspeed is not None and deepspeed.comm.is_initialized()
        (deepspeed.comm if held else torch.distributed).destroy_process_group()
        gc.collect()


def use_all_cores(cpu_threads: int | None) -> None:
    """
    Gives each process of a CPU run its share of the cores.

    `accelerate launch` sets `OMP_NUM_THREADS=1` unless a config sets another number, which would leave all cores but
    one idle. Any other value was set by the user and is kept.

    Args:
        cpu_threads (`int`, *optional*): Threads of this process; overrides everything else.
    """
    import torch

    if cpu_threads is None:
        if torch.cuda.is_available() or os.environ.get("OMP_NUM_THREADS", "1") != "1":
            return
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cpu_threads = max(1, cores // local_processes)
    torch.set_num_threads(cpu_threads)


def silence_launch_noise() -> None:
    """Hides messages of libraries about other libraries, which a user of a recipe cannot act on."""
    import warnings

    # DeepSpeed 0.19 calls names that torch 2.13 has renamed.
    warnings.filterwarnings("ignore", message=r".*`torch\.distributed\.\w+` is deprecated", category=FutureWarning)


def claim_output_dir(output_dir: str, *, overwrite: bool, resume: bool) -> None:
    """
    Refuses an output folder that is in use or cannot be written. Changes nothing: the run may still fail to start.

    Raises:
        `InputError`: naming `--overwrite_output_dir` and `--resume_from_checkpoint`; or if no run of this toolkit
            wrote it.
    """
    from pathlib import Path

    from accelerate import PartialState

    from ..errors import InputError
    from ..models.files import SETTINGS_NAME
    from ..output.written import RUN_MANIFEST
    from .manifest import is_unfinished
    from .run_files import is_in_use, own_files

    folder = Path(output_dir)
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    problem = None
    if not existing.is_dir():
        problem = f"`output_dir` {output_dir}: {existing} is a file; name a folder."
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = f"`output_dir` {output_dir}: {existing} is not writable; name a folder elsewhere."
    elif is_in_use(folder) and not resume:
        if own_files(folder) is None and not is_unfinished(folder):
            problem = (
                f"{output_dir} has files, but no run of this toolkit has written it (it has no `{RUN_MANIFEST}` and no "
                f"`{SETTINGS_NAME}` of a run); nothing was changed. Name another `output_dir`, or empty it yourself: "
                "--overwrite_output_dir leaves it alone."
            )
        elif not overwrite:
            problem = (
                f"{output_dir} has an earlier run; nothing was changed. Pass --overwrite_output_dir to replace it, or "
                "--resume_from_checkpoint auto to resume from its last checkpoint."
            )
    # Every process checks before any of them writes.
    PartialState().wait_for_everyone()
    if problem:
        raise InputError(problem)
