"""``tmlauncher doctor``: questions to a machine and a run, and what their answers mean."""
