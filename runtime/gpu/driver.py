"""The CUDA driver, through NVIDIA's own bindings: memory, launches and recorded launches (CUDA graphs)."""

import weakref
from collections.abc import Callable
from ctypes import c_int64, c_void_p
from typing import Any, Protocol

from numpy.typing import NDArray

from skipfx.errors import DeviceError
from skipfx.runtime.kernels.table import BLOCKS, THREADS

CUDA = 2  # DLPack's number for memory of an NVIDIA GPU


class Driver(Protocol):
    """What an engine needs of a device. Addresses are numbers; a queue is the handle of a CUDA stream."""

    kind: int
    index: int
    blocks: int  # of every launch

    def runs(self, level: str) -> bool:
        """Whether the device runs code for some architectures, "sm_80,sm_90"."""

    def enter(self) -> None:
        """Makes the device the calling thread's own."""

    def load(self, code: bytes) -> Callable[[str], Any]:
        """Loads device code; gives what finds a kernel in it by name."""

    def allocate(self, size: int) -> int:
        """So many bytes, set to zero."""

    def free(self, address: int) -> None:
        """Gives memory back."""

    def write(self, address: int, values: NDArray[Any], queue: int) -> None:
        """Copies an array to the device."""

    def read(self, address: int, values: NDArray[Any], queue: int) -> None:
        """Copies from the device into an array, and waits for it."""

    def wait(self, queue: int) -> None:
        """Waits until a queue is empty."""

    def copy(self, address: int, source: int, size: int, queue: int) -> None:
        """Copies bytes on the device."""

    def zero(self, address: int, size: int, queue: int) -> None:
        """Sets bytes to zero."""

    def launch(self, kernel: Any, pointers: tuple[int, ...], numbers: tuple[int, ...], queue: int) -> None:
        """Launches a kernel on blocks x THREADS threads; the number of blocks is its last argument."""

    def record(self, work: Callable[[int], None]) -> Callable[[int], None]:
        """Records what `work(queue)` launches; gives what launches all of it on a queue."""

    def timed(self, work: Callable[[int], None]) -> float:
        """Milliseconds that the device takes for what `work(queue)` launches; it is done twice."""


class CudaDriver:
    """One GPU.

    Args:
        index: of the GPU.

    Raises:
        DeviceError: the bindings, the driver or the GPU are missing.
    """

    kind = CUDA

    def __init__(self, index: int = 0) -> None:
        try:
            from cuda.bindings import driver as cuda
        except ImportError as error:
            raise DeviceError("running on a GPU needs NVIDIA's bindings: pip install 'skipfx[gpu]'") from error
        self.cuda, self.index = cuda, index
        try:
            self._call(cuda.cuInit, 0)
        except DeviceError:
            raise
        except Exception as error:  # the bindings look for the driver here
            raise DeviceError(f"no NVIDIA driver was found, so nothing can run on a GPU here: {error}") from error
        self.device = self._call(cuda.cuDeviceGet, index)
        self.context = self._call(cuda.cuDevicePrimaryCtxRetain, self.device)
        self.enter()
        self.blocks = BLOCKS * self._attribute("MULTIPROCESSOR_COUNT")

    def _attribute(self, name: str) -> int:
        attribute = getattr(self.cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call(self.cuda.cuDeviceGetAttribute, attribute, self.device))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        status, *results = function(*arguments)
        if status == self.cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise DeviceError("the GPU is out of memory: use fewer streams, or a smaller frame size")
        if status != self.cuda.CUresult.CUDA_SUCCESS:
            raise DeviceError(f"the CUDA driver says {status.name} to {function.__name__}")
        return results[0] if results else None

    def runs(self, level: str) -> bool:
        """Code runs on its own major version from its minor version on; that of the last also on later ones."""
        found = self._attribute("COMPUTE_CAPABILITY_MAJOR"), self._attribute("COMPUTE_CAPABILITY_MINOR")
        return fits(found, level)

    def enter(self) -> None:
        """Makes the GPU's primary context, which PyTorch uses too, the calling thread's own."""
        self._call(self.cuda.cuCtxSetCurrent, self.context)

    def load(self, code: bytes) -> Callable[[str], Any]:
        """Loads a fat binary."""
        module = self._call(self.cuda.cuModuleLoadData, code)
        return lambda name: self._call(self.cuda.cuModuleGetFunction, module, name.encode())

    def allocate(self, size: int) -> int:
        """So many bytes, set to zero."""
        address = int(self._call(self.cuda.cuMemAlloc, size))
        self.zero(address, size, 0)
        self.wait(0)  # the memory may be used on another queue
        return address

    def free(self, address: int) -> None:
        """Gives memory back, once the GPU is done with it."""
        self.enter()
        self._call(self.cuda.cuMemFree, address)

    def write(self, address: int, values: NDArray[Any], queue: int) -> None:
        """Copies an array to the GPU; the array may be used again at once."""
        self._call(self.cuda.cuMemcpyHtoDAsync, address, values.ctypes.data, values.nbytes, queue)

    def read(self, address: int, values: NDArray[Any], queue: int) -> None:
        """Copies from the GPU into an array, and waits for it."""
        self._call(self.cuda.cuMemcpyDtoHAsync, values.ctypes.data, address, values.nbytes, queue)
        self.wait(queue)

    def wait(self, queue: int) -> None:
        """Waits until a CUDA stream is empty."""
        self._call(self.cuda.cuStreamSynchronize, queue)

    def copy(self, address: int, source: int, size: int, queue: int) -> None:
        """Copies bytes on the GPU."""
        self._call(self.cuda.cuMemcpyDtoDAsync, address, source, size, queue)

    def zero(self, address: int, size: int, queue: int) -> None:
        """Sets bytes to zero."""
        self._call(self.cuda.cuMemsetD8Async, address, 0, size, queue)

    def launch(self, kernel: Any, pointers: tuple[int, ...], numbers: tuple[int, ...], queue: int) -> None:
        """Launches a kernel of `skipfx.runtime.kernels.cuda`."""
        values = (*pointers, *numbers, self.blocks)
        arguments = (values, (c_void_p,) * len(pointers) + (c_int64,) * (len(numbers) + 1))
        self._call(self.cuda.cuLaunchKernel, kernel, self.blocks, 1, 1, THREADS, 1, 1, 0, queue, arguments, 0)

    def record(self, work: Callable[[int], None]) -> Callable[[int], None]:
        """Records launches as a CUDA graph, on a CUDA stream of its own."""
        queue = self._call(self.cuda.cuStreamCreate, int(self.cuda.CUstream_flags.CU_STREAM_NON_BLOCKING))
        try:
            mode = self.cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
            self._call(self.cuda.cuStreamBeginCapture, queue, mode)
            try:
                work(int(queue))
            finally:
                graph = self._call(self.cuda.cuStreamEndCapture, queue)
        finally:
            self._call(self.cuda.cuStreamDestroy, queue)
        ready = self._call(self.cuda.cuGraphInstantiate, graph, 0)
        self._call(self.cuda.cuGraphDestroy, graph)

        def replay(queue: int) -> None:
            self._call(self.cuda.cuGraphLaunch, ready, queue)

        weakref.finalize(replay, self._destroy, ready).atexit = False
        return replay

    def timed(self, work: Callable[[int], None]) -> float:
        """Times work on the default CUDA stream with events.

        It is done once before: while the GPU is busy with that, the host puts the start, the work and the end behind
        it, so that the time holds none of the host's own.
        """
        start, end = (self._call(self.cuda.cuEventCreate, 0) for _ in range(2))
        try:
            work(0)
            self._call(self.cuda.cuEventRecord, start, 0)
            work(0)
            self._call(self.cuda.cuEventRecord, end, 0)
            self._call(self.cuda.cuEventSynchronize, end)
            return float(self._call(self.cuda.cuEventElapsedTime, start, end))
        finally:
            for event in (start, end):
                self._call(self.cuda.cuEventDestroy, event)

    def _destroy(self, ready: Any) -> None:
        self.enter()
        self._call(self.cuda.cuGraphExecDestroy, ready)


def fits(found: tuple[int, ...], level: str) -> bool:
    """Whether a GPU of compute capability (major, minor) runs code for some architectures."""
    built = [divmod(int(name.removeprefix("sm_")), 10) for name in level.split(",")]
    return any(found[0] == major and found[1] >= minor for major, minor in built) or found >= max(built)


def open_driver() -> Driver:
    """The driver of the first GPU.

    Raises:
        DeviceError: there is none.
    """
    return CudaDriver()
