"""The runtime of skipfx: engines, streams and artifacts. It needs neither PyTorch nor the compiler's passes."""

if __name__ != "skipfx.runtime":
    raise ImportError("import skipfx.runtime: the folder `runtime` is not a package of its own")
