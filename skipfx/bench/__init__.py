"""Fair timing: dense engines to compare with, each in a process of its own, timed in turns."""
