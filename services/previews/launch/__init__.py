"""Launching programs that nobody trusts, and leaving nothing of them behind.

    tier = await detect(minimum, data_directory)         # once, at start-up
    await sweep(data_directory)                           # what a killed service has left; the ids of its previews
    launcher = Launcher(tier.name, data_directory)
    child = await launcher.launch(spec, on_output)        # the program runs; LaunchFailed says why it does not
    exit = await child.exited()                           # code, signal, reason; all output has been handed over
    await child.stop(grace_seconds)                       # no process, socket, file or directory of it is left
    await launcher.close()                                # the same for all

The service connects to `spec.socket` from the moment `launch` returns; that the program answers there is for it to
find out. `isolation` says what each tier keeps from a program, `kinds` how each kind comes to its socket, `supervisor`
(the package beside this one) what happens when the service is killed.
"""

from services.previews.launch.detect import detect
from services.previews.launch.isolation import IsolationUnavailable, Tier, protect_this_process
from services.previews.launch.launcher import Launcher
from services.previews.launch.output import OnOutput, Stream
from services.previews.launch.process import Child
from services.previews.launch.spec import Exit, Kind, LaunchFailed, LaunchSpec, Limits, SpecRefused, check_recipe
from services.previews.launch.sweep import sweep

__all__ = [
    "Child",
    "Exit",
    "IsolationUnavailable",
    "Kind",
    "LaunchFailed",
    "LaunchSpec",
    "Launcher",
    "Limits",
    "OnOutput",
    "SpecRefused",
    "Stream",
    "Tier",
    "check_recipe",
    "detect",
    "protect_this_process",
    "sweep",
]
