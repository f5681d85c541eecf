"""Scripts that measure and prepare; the package never imports them."""
