"""How compiled kernels are built: plan, build, watchdog."""
