"""Composing: Hydra puts a configuration together, and what a stranger's file may not ask for is refused first.

Hydra builds callbacks, a launcher, a sweeper and handlers of logging from the configuration before a run begins.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from hydra._internal import hydra as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from lwdc.errors import LwdcError, Refused, unknown_name
from lwdc.help import config_groups
from lwdc.keys import OPEN, check_keys, helpers_of, unknown_setting
from lwdc.resolvers import register_resolvers
from lwdc.targets import ALLOWED, check_targets

# Of Hydra's own settings: what runs commands, or changes what programs do. Only the command line may give these.
_TYPED = (
    "callbacks",
    "hydra_logging",
    "job.env_set",
    "job_logging",
    "launcher.additional_parameters",
    "launcher.setup",
    "launcher.srun_args",
    "sweeper.storage",
)
_BUILT = ("callbacks", "launcher", "sweeper")  # of these Hydra makes objects
_SHIPPED = ("${hydra.sweep.dir}/.submitit/%j", "${hydra.job.name}")  # interpolations of the plug-ins' own
_SILENT = {"version", "root", "disable_existing_loggers"}  # of logging: all that `disabled` and `none` have


@contextlib.contextmanager
def checked(typed: Sequence[str], trusted: Sequence[str]) -> Iterator[None]:
    """Whatever Hydra composes is checked. ``typed`` are the overrides of the command line, which the user has seen."""
    register_resolvers()
    with mock.patch.object(hydra_main, "ConfigLoaderImpl", lambda **given: _CheckedLoader(typed, trusted, **given)):
        yield


class _CheckedLoader(ConfigLoaderImpl):
    """Raises ``Refused`` for what may not be. Processes of launchers compose by it, too."""

    def __init__(self, typed: Sequence[str], trusted: Sequence[str], **given: Any) -> None:
        super().__init__(**given)
        self._given, self._trusted = tuple(typed), tuple(trusted)
        self._in_sweep = False
        self._defaults: DictConfig | None = None  # as composed before overrides are applied
        self._looked_at: tuple[str | None, list[str], RunMode, DictConfig] | None = None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """As Hydra's own, but what it composes to look at its mode (without validation) is what it gets next."""
        try:
            parsed = OverridesParser.create().parse_overrides(overrides)
        except OverrideParseException as error:
            raise Refused(_unreadable(error)) from error
        if not validate_sweep_overrides:
            if not any(override.is_sweep_override() for override in parsed):
                run_mode = RunMode.RUN  # as it will be, unless the mode says otherwise
            config = self._composed(config_name, overrides, run_mode, from_shell, validate=False)
            self._looked_at = config_name, [*overrides], run_mode, config
            return config
        looked_at, self._looked_at = self._looked_at, None
        if looked_at is not None:
            name, known, mode, config = looked_at
            added = overrides[len(known) :]  # by Hydra, once it knows the mode
            if (name, known, mode) == (config_name, overrides[: len(known)], run_mode) and (
                added in ([], [f"hydra.mode={mode.name}"])
            ):
                self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
                if added:
                    config.hydra.mode = mode
                    config.hydra.overrides.hydra.append(*added)
                return self._checked(config)  # again: what is interpolated may hang on the mode
        return self._composed(config_name, overrides, run_mode, from_shell, validate=True)

    def _composed(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, from_shell: bool, validate: bool
    ) -> DictConfig:
        limit_resolvers(self._given)
        # What a sweep begins with is composed as its first run is: else settings that only the choices swept over have
        # would be unknown.
        first = [_first_choice(o) for o in overrides] if run_mode == RunMode.MULTIRUN else overrides
        try:
            config = super().load_configuration(config_name, first, run_mode, from_shell, validate)
        except ConfigCompositionException as error:
            if (own := self._own_words(error)) is None:
                raise
            raise Refused(own) from error
        if first != overrides:
            swept = dict(zip(first, overrides, strict=True))
            with flag_override(config, ["struct", "readonly"], False):
                config.hydra.overrides.task = [swept.get(o, o) for o in config.hydra.overrides.task]
        return self._checked(config)

    def _compose_config_from_defaults_list(self, defaults: list[Any], repo: Any) -> DictConfig:
        """What overrides are applied to; of its mappings those that are ``OPEN`` take any key, without a ``+``."""
        config = super()._compose_config_from_defaults_list(defaults, repo)
        for key in OPEN:
            node = OmegaConf.select(config, key, throw_on_resolution_failure=False)
            if isinstance(node, DictConfig):
                OmegaConf.set_struct(node, False)
        self._defaults = config
        return config

    def _own_words(self, error: ConfigCompositionException) -> LwdcError | None:
        """What lwdc says in the place of Hydra, if it knows."""
        if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
            group, _, choice = error.missing_cfg_file.rpartition("/")
            return LwdcError(unknown_name(group.rstrip("/"), choice, error.options))
        key = re.match(r"Could not (?:override|delete from config\.) '([^'@]+)'(?:\.\n| does not)", str(error))
        if key is None or self._defaults is None:
            return None
        plain = OmegaConf.to_container(self._defaults, resolve=False)
        within = re.search(r"Key '([^']+)' is not in struct", f"{error} {error.__cause__}")  # of key={within: ...}
        name = key[1].replace("/", ".")
        return unknown_setting(name, plain) or (unknown_setting(f"{name}.{within[1]}", plain) if within else None)

    def _checked(self, config: DictConfig) -> DictConfig:
        try:
            _check(config, self._given, self._trusted)
            if not self._in_sweep:  # of which a run fails by itself, with a row that says so
                own = OmegaConf.to_container(config, resolve=False)
                assert isinstance(own, dict)
                plain = {str(key): value for key, value in own.items()}
                check_keys(plain, helpers_of(plain))
        except LwdcError as error:
            raise Refused(error) from error
        except OmegaConfBaseException as error:
            said = " ".join(str(error).split())
            raise Refused(LwdcError(f"the configuration cannot be resolved: {said}")) from error
        return config

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        self._in_sweep = True
        try:
            return super().load_sweep_config(master_config, sweep_overrides)
        finally:
            self._in_sweep = False

    def _process_config_searchpath(self, config_name: str | None, parsed_overrides: list[Any], repo: Any) -> None:
        loaded = None if config_name is None else repo.load_config(config_path=config_name)
        found = None if loaded is None else OmegaConf.select(loaded.config, "hydra.searchpath")
        if any(str(path).startswith("pkg:") for path in found or ()) and "hydra.searchpath" not in _keys(self._given):
            raise Refused(
                LwdcError(
                    "the configuration sets hydra.searchpath to a package, which would be imported: give it on the "
                    "command line, as hydra.searchpath=[...], or leave it out."
                )
            )
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


def _unreadable(error: OverrideParseException) -> LwdcError:
    said = error.message.splitlines()[0].strip().rstrip(".")
    quoted = re.search(r"[{,]\s*[\"'][^\"']*[\"']\s*:", error.override)
    hint = " Keys within {} stand without quotes, as in {layer1.*: ...}." if quoted else ""
    return LwdcError(f"{error.override:.200} cannot be read: {said}.{hint}")


def _first_choice(override: str) -> str:
    """Of ``group=a,b`` only ``group=a``; other overrides as they are."""
    match = re.fullmatch(r"(\w+=[\w-]+)(,[\w-]+)+", override)
    return match[1] if match and match[1].partition("=")[0] in config_groups() else override


def limit_resolvers(typed: Sequence[str]) -> None:
    """Interpolations build no configuration out of text, and read no variable but lwdc's own and those typed.

    What a configuration reads is kept with the run, and may be sent to where runs are tracked.
    """

    def variable(name: str, *default: Any) -> Any:
        named = re.compile(rf"oc\.env:['\"]?{re.escape(name)}['\"]?[,}}]")  # whole, not as the beginning of another
        if not name.startswith("LWDC_") and not any(named.search(o.replace(" ", "")) for o in typed):
            raise ValueError(f"the environment variable {name} may be read only if the command line names it")
        return oc.env(name, *default)

    for name in ("oc.decode", "oc.create"):
        if OmegaConf.has_resolver(name):
            OmegaConf.clear_resolver(name)
    OmegaConf.clear_resolver("oc.env")
    OmegaConf.register_new_resolver("oc.env", variable)


def _check(config: DictConfig, typed: Sequence[str], trusted: Sequence[str]) -> None:
    if "trust" in config:
        raise LwdcError("trust stands in a configuration, where it says nothing: give it on the command line.")
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    own = plain["hydra"]
    keys = _keys(typed)

    def was_typed(name: str) -> bool:
        return any(key == f"hydra.{name}" or key.startswith(f"hydra.{name}.") for key in keys)

    for name in _TYPED:
        found = _leads_elsewhere(own, name) or OmegaConf.select(config.hydra, name)
        asked = set(found) - _SILENT if found and name.endswith("_logging") and not isinstance(found, str) else found
        if asked and not was_typed(name):
            raise LwdcError(
                f"the configuration sets hydra.{name}, which can run programs: give it on the command line, "
                f"as hydra.{name}=..., or leave it out."
            )
    for name in _BUILT:
        for key, value in _leaves(own.get(name), name):
            if isinstance(value, str) and "${" in value and value not in _SHIPPED and not was_typed(key):
                raise LwdcError(f"hydra.{key} is {value!r:.200}: an interpolation may not make a configuration.")
    written = [*_leaves(own.get("launcher"), "launcher")]
    written += [(key, OmegaConf.select(config.hydra, key)) for key in ("sweep.dir", "job.name")]
    for key, value in written:
        if isinstance(value, str) and not value.isprintable():
            raise LwdcError(f"hydra.{key} is {value!r:.200}: what becomes part of a job's script is one line of text.")
    own = {name: own.get(name) for name in _BUILT}
    for name in ("launcher", "sweeper"):  # Hydra itself takes only plug-ins that are installed
        own[name] = {key: value for key, value in (own[name] or {}).items() if key != "_target_"}
    check_targets(_only_targets({"hydra": own}), trusted, allowed=(*ALLOWED, "optuna.samplers"))


def _keys(typed: Sequence[str]) -> list[str]:
    return [override.split("=", 1)[0].lstrip("+~").replace("/", ".").partition("@")[0] for override in typed]


def _leads_elsewhere(config: Any, name: str) -> str | None:
    """An interpolation on the way to ``name`` or below it: what it says may change after it was looked at."""
    for part in name.split("."):
        if isinstance(config, dict):
            config = config.get(part)
    return next((value for _, value in _leaves(config, name) if isinstance(value, str) and "${" in value), None)


def _only_targets(config: Any) -> Any:
    """Other texts may still hold interpolations here, a ``_target_`` not."""
    if isinstance(config, dict):
        return {key: value if key == "_target_" else _only_targets(value) for key, value in config.items()}
    return [_only_targets(value) for value in config] if isinstance(config, list) else None


def _leaves(config: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(config, dict | list):
        items = config.items() if isinstance(config, dict) else enumerate(config)
        for name, value in items:
            yield from _leaves(value, f"{key}.{name}")
    else:
        yield key, config
