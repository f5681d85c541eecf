"""The host's side of a GPU: what is launched, the driver, device memory and streams. No compiler is imported."""
