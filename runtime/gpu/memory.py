"""Arrays in device memory: read and written by slices from the host, exported by DLPack without a copy."""

import ctypes
import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipfx.runtime.gpu.driver import Driver

Array = NDArray[Any]
NAME = b"dltensor"
KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLPack's numbers for NumPy's kinds of types


class DeviceArray:
    """An array on a device, contiguous.

    Indexing counts elements, whatever the shape, and copies: `array[i:j]` is a NumPy array, `array[i:j] = values`
    writes to the device.

    Args:
        driver: of the device.
        shape: its shape.
        dtype: of its elements.
        base: where it lies: memory of another array, from an element on. None: memory of its own, set to zero.
    """

    def __init__(
        self, driver: Driver, shape: tuple[int, ...], dtype: Any, base: "tuple[DeviceArray, int] | None" = None
    ) -> None:
        self.driver, self.shape, self.dtype = driver, shape, np.dtype(dtype)
        self.queue: int = 0 if base is None else base[0].queue
        self.base = base
        if base is None:
            driver.enter()
            self.address = driver.allocate(max(1, self.size) * self.itemsize)
            weakref.finalize(self, driver.free, self.address).atexit = False
        else:
            self.address = base[0].address + base[1] * base[0].itemsize

    @classmethod
    def copied(cls, driver: Driver, values: Array) -> "DeviceArray":
        """A copy of an array."""
        made = cls(driver, values.shape, values.dtype)
        made[:] = values.reshape(-1)
        driver.wait(made.queue)
        return made

    def host(self) -> Array:
        """A copy in the host's memory."""
        values: Array = self[:].reshape(self.shape)
        return values

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return int(self.dtype.itemsize)

    def take(self, start: int, address: int, count: int, queue: int) -> None:
        """Copies elements from an address on the device to `start`."""
        self.driver.enter()
        self.driver.copy(self.address + start * self.itemsize, address, count * self.itemsize, queue)

    def part(self, start: int, shape: tuple[int, ...], dtype: Any = None) -> "DeviceArray":
        """Some elements, from `start` on, as an array that keeps this one alive; `dtype` takes them for others."""
        return DeviceArray(self.driver, shape, self.dtype if dtype is None else dtype, (self, start))

    def __getitem__(self, key: int | slice) -> Any:
        start, stop = self._range(key)
        values = np.empty(stop - start, self.dtype)
        if values.size:
            self.driver.enter()
            self.driver.read(self.address + start * self.itemsize, values, self.queue)
        return values if isinstance(key, slice) else values[0]

    def __setitem__(self, key: int | slice, values: Any) -> None:
        start, stop = self._range(key)
        room = np.ascontiguousarray(np.broadcast_to(np.asarray(values, self.dtype), stop - start))
        if room.size:
            self.driver.enter()
            self.driver.write(self.address + start * self.itemsize, room, self.queue)

    def _range(self, key: int | slice) -> tuple[int, int]:
        if isinstance(key, slice):
            start, stop, _ = key.indices(self.size)
            return start, max(start, stop)
        return int(key), int(key) + 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.driver.kind, self.driver.index

    def __dlpack__(self, **options: Any) -> Any:
        return _Exported(self).capsule()


class _Tensor(ctypes.Structure):
    """DLTensor, and the rest of DLManagedTensor, as the DLPack header declares them."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code_bits", ctypes.c_uint8 * 2),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


_exported: dict[int, "_Exported"] = {}


class _Exported:
    """An array that a consumer of DLPack holds: it lives until the consumer calls the deleter."""

    def __init__(self, array: DeviceArray) -> None:
        self.array = array
        self.shape = (ctypes.c_int64 * len(array.shape))(*array.shape)
        self.tensor = _Tensor(
            array.address,
            (ctypes.c_int32 * 2)(array.driver.kind, array.driver.index),
            len(array.shape),
            (ctypes.c_uint8 * 2)(KINDS[array.dtype.kind], 8 * array.dtype.itemsize),
            1,
            self.shape,
            None,
            0,
            None,
            ctypes.cast(_deleter, ctypes.c_void_p),
        )

    def capsule(self) -> Any:
        address = ctypes.addressof(self.tensor)
        _exported[address] = self
        return _new_capsule(address, NAME, ctypes.cast(_dropper, ctypes.c_void_p))


def _delete(address: int) -> None:
    _exported.pop(address, None)


def _drop(capsule: int) -> None:
    """A capsule that nobody took: a consumer renames the one it takes."""
    if _is_capsule(capsule, NAME):
        _exported.pop(_pointer(capsule, NAME), None)


_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_deleter, _dropper = _Callback(_delete), _Callback(_drop)

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_is_capsule = ctypes.pythonapi.PyCapsule_IsValid
_is_capsule.restype, _is_capsule.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
