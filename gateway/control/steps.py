"""Steps of experiments that people ask for: admitted, checked against what is in force, taken.

First whether they may at all: who may not makes the gateway call nobody, and learns no address. Then whether the step can be carried out: a switch
needs a green that is approved, and servers that answer. Then it is taken (`gateway/control/rollouts.py`).
"""

from __future__ import annotations

import time

import msgspec

from experiments.rollout import WINNERS, Action
from gateway.authenticate import Principal
from gateway.control.configuration import Configuration
from gateway.control.orders import Asked, admit, unknown
from gateway.control.readiness import require_approved, unreachable
from gateway.control.registry import Registry
from gateway.control.rollouts import Rollouts
from gateway.documents import RouteDocument, SettingsDocument, decode
from gateway.processes.control import ControlDirectory
from gateway.refusals import Refusal
from gateway.snapshot import compile_route
from gateway.standing import Approvals
from policies.trust import TrustRoot


class Steps:
    """Who takes the steps. Owns nothing: it asks what the controller's other parts have in force."""

    def __init__(self, rollouts: Rollouts, configuration: Configuration, control: ControlDirectory, registry: Registry, root: TrustRoot) -> None:
        """Take steps of these rollouts."""
        self._rollouts = rollouts
        self._configuration = configuration
        self._control = control
        self._registry = registry
        self._root = root

    async def take(self, asked: Asked, principal: Principal) -> Action:
        """Take a step that someone asked for; the caller tells the workers.

        Raises:
            Refusal: they may not, or it cannot be carried out.
        """
        now_us = time.time_ns() // 1000
        if asked.experiment not in self._rollouts.running:
            raise unknown(asked.experiment, len(self._configuration.issues))
        if asked.verb in ("start", "promote"):
            admit(asked, self._rollouts.running, principal, self._root, now_us)
            self._require_approved(asked.experiment, now_us)
        if asked.verb == "promote":
            await self._require_reachable(asked.experiment)
        return await self._rollouts.take(lambda running: admit(asked, running, principal, self._root, now_us), now_us)

    async def _require_reachable(self, experiment: str) -> None:
        """Refuse to send everyone to a version whose servers do not answer."""
        found, manifest = self._rollouts.running.get(experiment), self._configuration.manifest
        winner = None if found is None else WINNERS.get(found.document.strategy)
        if found is None or winner is None or manifest is None:
            return  # what is wrong with the order is said where it is admitted
        document = found.document
        route = msgspec.json.decode(self._control.get(manifest.models[document.model]), type=RouteDocument)
        silent = await unreachable(route.versions[document.arms[winner]].upstreams)
        if silent:
            raise Refusal("upstream_unreachable", f"version `{document.arms[winner]}` of `{document.model}` does not answer at {', '.join(silent)}")

    def _require_approved(self, experiment: str, now_us: int) -> None:
        """Refuse to make a switch ready, or to take it, for a green that may not serve everyone: afterwards blue would go on serving in its name."""
        found, manifest = self._rollouts.running.get(experiment), self._configuration.manifest
        if found is None or manifest is None or found.document.strategy != "blue_green":
            return
        digest = manifest.models[found.document.model]
        settings = decode(self._control.get(manifest.settings), SettingsDocument)
        approvals = Approvals(self._registry.in_force())
        require_approved(compile_route(digest, self._control.get(digest)), found.document.arms["green"], approvals, settings.environment, now_us)
