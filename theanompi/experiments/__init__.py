"""``tmlauncher compare``: runs side by side, with means, deviations and verdicts."""
