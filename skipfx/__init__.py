"""skipfx."""
