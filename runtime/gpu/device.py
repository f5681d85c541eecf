"""A GPU with the code and constants of an engine in its memory, shared by all streams of the engine."""

from typing import TYPE_CHECKING

from skipfx.errors import DeviceError
from skipfx.runtime.gpu.driver import open_driver
from skipfx.runtime.gpu.launches import launches
from skipfx.runtime.gpu.memory import DeviceArray

if TYPE_CHECKING:
    from skipfx.runtime.engine import Program


class Device:
    """Opens the driver and loads an engine.

    Attributes:
        kernels: by name; all are loaded here, because nothing may be loaded while launches are recorded.
        w, c: the constants.

    Raises:
        DeviceError: there is no GPU or no driver, the GPU is too old for the code, or out of memory.
    """

    def __init__(self, program: "Program") -> None:
        self.driver = open_driver()
        if not self.driver.runs(program.level):
            raise DeviceError(
                f"this GPU does not run code for {program.level}: compile for its own architecture, as with "
                "target='cuda:sm_75'"
            )
        find = self.driver.load(*program.code)
        self.kernels = {launch.kernel: find(launch.kernel) for launch in launches(program)}
        self.w, self.c = DeviceArray.copied(self.driver, program.w), DeviceArray.copied(self.driver, program.c)
