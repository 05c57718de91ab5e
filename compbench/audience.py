"""Who is told of a run's events: plugins with observer hooks, and observers that were asked for by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compbench.errors import CompbenchError, PluginError, SettingsError, one_line
from compbench.plugin_loading import RECORDS, Loaded, Registered, call_one, checked_hooks


class Audience:
    """The observers of one registry.

    An observer that raises has missed something; what it would make of the rest is not to be relied on, and a line for
    each of a thousand cells helps nobody. So it is reported once and not told again.

    Args:
        loaded: The plugins; those with observer hooks are in the audience from the start.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._manager = loaded.manager
        self._listening: dict[str, tuple[object, frozenset[str]]] = {
            str(plugin): (module, frozenset(plugin.hooks)) for plugin, module in loaded.modules.items()
        }

    def start(self, registered: Registered) -> None:
        """Takes in an observer that was asked for by name; one that is there already is not started again.

        Raises:
            PluginError: What it starts has no observer hooks, or others beside them.
            SettingsError: It can't be started.
        """
        title = f"observer '{registered.name}'"
        if title in self._listening:
            return
        try:
            observer = registered.record.start()
        except CompbenchError:
            raise
        except (Exception, SystemExit) as error:
            raise SettingsError(f"{title} can't be started: {one_line(error)}") from error
        try:
            self._manager.register(observer)
            hooks = checked_hooks(self._manager, observer)
        except Exception as error:
            raise PluginError(f"{title} ({registered.plugin.source}): {one_line(error)}") from error
        if foreign := sorted(RECORDS.keys() & set(hooks)):
            raise PluginError(f"{title} ({registered.plugin.source}): {foreign[0]} is no hook of an observer")
        self._listening[title] = observer, frozenset(hooks)

    def tell(self, hook: str, arguments: Mapping[str, Any]) -> list[str]:
        """Calls a hook of each observer that has it.

        Returns:
            A line for each that raised.
        """
        wrong = []
        for title, (observer, hooks) in list(self._listening.items()):
            if hook not in hooks:
                continue
            try:
                call_one(self._manager, observer, hook, arguments)
            except (Exception, SystemExit) as error:
                wrong.append(f"{title}: {hook} raised {one_line(error)}; it is not told of anything more")
                del self._listening[title]
        return wrong
