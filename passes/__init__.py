"""The passes of the compiler: each takes a stream graph and leaves one that still runs in plain PyTorch."""

if __name__ != "skipfx.passes":
    raise ImportError("import skipfx.passes: the folder `passes` is not a package of its own")
