"""The few errors a user can act on; each message says what, where and what to do next."""


class HertzmapError(Exception):
    """Base of every error that a user of hertzmap can act on."""


class SceneError(HertzmapError):
    """A map extract cannot become a scene (empty, broken, no buildings, no metric CRS)."""


class ReportsError(HertzmapError):
    """Reports cannot be used (NaN, outside the map, mixed units, too few)."""


class PropagationError(HertzmapError):
    """A transmitter or an environment cannot be simulated (indoors, outside reach)."""


class ConfigError(HertzmapError):
    """A configuration, a method name or a preset is not known or not valid."""


class DataError(HertzmapError):
    """A file of the data folder, a checkpoint or a result is missing or damaged."""


class MissingExtraError(HertzmapError, ImportError):
    """An optional part of the package, or what it needs of the machine, is not installed."""
